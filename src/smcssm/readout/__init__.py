"""Read-outs: functions of a snapshot. None of them changes what the engine does next."""

from smcssm.readout.forecast import forecast as forecast
from smcssm.readout.posterior import posterior as posterior
from smcssm.readout.state import state as state
from smcssm.readout.summary import summary as summary
