"""Schedules by their public names."""

from smcssm.smc2.schedules import CrisanMiguez as CrisanMiguez
from smcssm.smc2.schedules import Immediate as Immediate
from smcssm.smc2.schedules import Jitter as Jitter
from smcssm.smc2.schedules import LiuWest as LiuWest
from smcssm.smc2.schedules import Paced as Paced
