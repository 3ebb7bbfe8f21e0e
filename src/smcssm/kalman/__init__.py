"""Square-root Kalman filtering of whole populations."""

from smcssm.kalman import parallel as parallel
from smcssm.kalman import sequential as sequential
from smcssm.kalman import smoother as smoother
from smcssm.kalman import whitened as whitened
from smcssm.kalman.sequential import Innovation as Innovation
from smcssm.kalman.sequential import live as live
from smcssm.kalman.sequential import predict as predict
from smcssm.kalman.sequential import step as step
from smcssm.kalman.sequential import update as update
