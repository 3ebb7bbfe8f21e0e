"""Faces that people know from elsewhere, each around an engine: of river, statsmodels and Prophet.

None of these packages is needed. What an engine has beyond them (the whole posterior, evidence, paths) stays within
reach as ``.engine``.
"""

from smcssm.interfaces.prophet import Prophet as Prophet
from smcssm.interfaces.river import River as River
from smcssm.interfaces.statsmodels import Statsmodels as Statsmodels
