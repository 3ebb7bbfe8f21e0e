"""Priors over hyperparameters."""

from smcssm.priors.base import Beta as Beta
from smcssm.priors.base import FromFunctions as FromFunctions
from smcssm.priors.base import HalfNormal as HalfNormal
from smcssm.priors.base import Independent as Independent
from smcssm.priors.base import LogNormal as LogNormal
from smcssm.priors.base import Marginal as Marginal
from smcssm.priors.base import Normal as Normal
