"""Moves by their public names."""

from smcssm.smc2.kernels import HMC as HMC
from smcssm.smc2.kernels import MALA as MALA
from smcssm.smc2.kernels import NUTS as NUTS
from smcssm.smc2.kernels import Metropolis as Metropolis
from smcssm.smc2.kernels import WasteFree as WasteFree
