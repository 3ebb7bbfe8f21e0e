"""Moves by their public names."""

from smcssm.smc2.kernels import Metropolis as Metropolis
