"""Inner filters."""

from smcssm.filters.discrete import Discrete as Discrete
from smcssm.filters.kalman import Kalman as Kalman
from smcssm.filters.particle import Particle as Particle
from smcssm.filters.rao_blackwell import RaoBlackwell as RaoBlackwell
