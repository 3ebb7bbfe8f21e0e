"""Moves: Markov kernels that leave the posterior invariant."""

from smcssm.smc2.kernels.metropolis import Metropolis as Metropolis
