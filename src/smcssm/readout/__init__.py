"""Read-outs: functions of a snapshot. None of them changes what the engine does next."""

from smcssm.readout.between import between as between
from smcssm.readout.covariance import covariance as covariance
from smcssm.readout.diagnose import Diagnosis as Diagnosis
from smcssm.readout.diagnose import diagnose as diagnose
from smcssm.readout.error import log_evidence_sd as log_evidence_sd
from smcssm.readout.export import record as record
from smcssm.readout.export import to_arviz as to_arviz
from smcssm.readout.forecast import forecast as forecast
from smcssm.readout.parts import apart as apart
from smcssm.readout.parts import in_parts as in_parts
from smcssm.readout.paths import paths as paths
from smcssm.readout.posterior import posterior as posterior
from smcssm.readout.scores import scores as scores
from smcssm.readout.smooth import smooth as smooth
from smcssm.readout.state import state as state
from smcssm.readout.summary import summary as summary
from smcssm.readout.together import together as together
