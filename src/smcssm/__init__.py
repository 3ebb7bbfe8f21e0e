"""Online Bayesian state-space models: the joint posterior of hyperparameters and states, after every observation."""

from smcssm import errors as errors
from smcssm import filters as filters
from smcssm import models as models
from smcssm import moves as moves
from smcssm import priors as priors
from smcssm import schedules as schedules
from smcssm.core import Status as Status
from smcssm.engine import Engine as Engine
from smcssm.schedules import Immediate as Immediate
