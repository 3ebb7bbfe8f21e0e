"""Schedules by their public names."""

from smcssm.smc2.schedules import Immediate as Immediate
from smcssm.smc2.schedules import Paced as Paced
