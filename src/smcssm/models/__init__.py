"""Ready-made state-space models, components to compose them from, and models from your own functions."""

from smcssm.models.ar import AR as AR
from smcssm.models.constant_velocity import ConstantVelocity as ConstantVelocity
from smcssm.models.continuous_trend import ContinuousTrend as ContinuousTrend
from smcssm.models.cycle import Cycle as Cycle
from smcssm.models.gp import GP as GP
from smcssm.models.integrated_wiener import IntegratedWiener as IntegratedWiener
from smcssm.models.level import Level as Level
from smcssm.models.linear_gaussian import LinearGaussian as LinearGaussian
from smcssm.models.local_level import LocalLevel as LocalLevel
from smcssm.models.local_level import LocalLinearTrend as LocalLinearTrend
from smcssm.models.nonlinear import Nonlinear as Nonlinear
from smcssm.models.ornstein_uhlenbeck import OrnsteinUhlenbeck as OrnsteinUhlenbeck
from smcssm.models.poisson_counts import PoissonCounts as PoissonCounts
from smcssm.models.regression import Regression as Regression
from smcssm.models.sarima import ARMA as ARMA
from smcssm.models.sarima import SARIMA as SARIMA
from smcssm.models.seasonal import Seasonal as Seasonal
from smcssm.models.stochastic_volatility import StochasticVolatility as StochasticVolatility
from smcssm.models.structural import Noise as Noise
from smcssm.models.structural import Structural as Structural
from smcssm.models.theta_logistic import ThetaLogistic as ThetaLogistic
from smcssm.models.tracking import BearingsOnly as BearingsOnly
from smcssm.models.tracking import RangeBearing as RangeBearing
from smcssm.models.trend import Trend as Trend
from smcssm.models.user_function import Step as Step
