"""Schedules: when to move, and how much of a move to do in each step."""

from smcssm.smc2.schedules.immediate import Immediate as Immediate
from smcssm.smc2.schedules.jitter import CrisanMiguez as CrisanMiguez
from smcssm.smc2.schedules.jitter import Jitter as Jitter
from smcssm.smc2.schedules.jitter import LiuWest as LiuWest
from smcssm.smc2.schedules.paced import Paced as Paced
