"""Inner filters."""

from smcssm.filters.kalman import Kalman as Kalman
