"""Inner filters."""

from smcssm.filters.kalman import Kalman as Kalman
from smcssm.filters.particle import Particle as Particle
