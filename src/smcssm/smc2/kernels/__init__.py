"""Moves: Markov kernels that leave the posterior invariant."""

from smcssm.smc2.kernels.hmc import HMC as HMC
from smcssm.smc2.kernels.mala import MALA as MALA
from smcssm.smc2.kernels.metropolis import Metropolis as Metropolis
from smcssm.smc2.kernels.nuts import NUTS as NUTS
from smcssm.smc2.kernels.waste_free import WasteFree as WasteFree
