"""Schedules by their public names."""

from smcssm.smc2.schedules import Immediate as Immediate
