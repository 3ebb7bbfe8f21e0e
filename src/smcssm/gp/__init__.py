"""Gaussian processes in time, in linear cost: kernels as state-space models, and their solver."""

from smcssm.gp.conditioned import Conditioned as Conditioned
from smcssm.gp.conditioned import Prediction as Prediction
from smcssm.gp.kernel import Kernel as Kernel
from smcssm.gp.matern import Exponential as Exponential
from smcssm.gp.matern import Matern as Matern
from smcssm.gp.matern import Matern32 as Matern32
from smcssm.gp.matern import Matern52 as Matern52
from smcssm.gp.oscillator import SHO as SHO
from smcssm.gp.oscillator import Celerite as Celerite
from smcssm.gp.oscillator import Rotation as Rotation
from smcssm.gp.outputs import Outputs as Outputs
from smcssm.gp.periodic import Constant as Constant
from smcssm.gp.periodic import Cosine as Cosine
from smcssm.gp.periodic import ExpSineSquared as ExpSineSquared
from smcssm.gp.periodic import Quasiperiodic as Quasiperiodic
from smcssm.gp.solver import condition as condition
from smcssm.gp.solver import log_probability as log_probability
from smcssm.gp.solver import sample as sample
