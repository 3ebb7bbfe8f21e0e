"""Square-root Kalman filtering of whole populations."""

from smcssm.kalman.sequential import Innovation as Innovation
from smcssm.kalman.sequential import predict as predict
from smcssm.kalman.sequential import step as step
from smcssm.kalman.sequential import update as update
