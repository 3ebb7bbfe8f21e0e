"""Online Bayesian state-space models: the joint posterior of hyperparameters and states, after every observation."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smcssm import errors as errors
    from smcssm import filters as filters
    from smcssm import gp as gp
    from smcssm import interfaces as interfaces
    from smcssm import journal as journal
    from smcssm import late as late
    from smcssm import metrics as metrics
    from smcssm import models as models
    from smcssm import monitor as monitor
    from smcssm import moves as moves
    from smcssm import plots as plots
    from smcssm import priors as priors
    from smcssm import schedules as schedules
    from smcssm.bridges.distribution import LinearGaussianSSM as LinearGaussianSSM
    from smcssm.bridges.expressions import kalman_predict as kalman_predict
    from smcssm.bridges.expressions import kalman_step as kalman_step
    from smcssm.bridges.expressions import kalman_update as kalman_update
    from smcssm.bridges.pymc_extras import from_statespace as from_statespace
    from smcssm.bridges.pymc_model import from_pymc as from_pymc
    from smcssm.comparison import compare as compare
    from smcssm.core import Status as Status
    from smcssm.distributed.driver import RayFleet as RayFleet
    from smcssm.engine import Engine as Engine
    from smcssm.fleet import Fleet as Fleet
    from smcssm.schedules import Immediate as Immediate
    from smcssm.schedules import Jitter as Jitter
    from smcssm.schedules import Paced as Paced
    from smcssm.watching.view import live as live
else:
    # The same names, loaded when first used (PEP 562): `smcssm --help` need not wait for JAX. Where each one lives:
    # tests/test_cli.py holds this list and the one above together.
    _HOME = {
        **dict.fromkeys(("errors", "filters", "gp", "interfaces", "journal", "late", "metrics"), ""),
        **dict.fromkeys(("models", "monitor", "moves", "plots", "priors", "schedules"), ""),
        "LinearGaussianSSM": "bridges.distribution",
        **dict.fromkeys(("kalman_predict", "kalman_step", "kalman_update"), "bridges.expressions"),
        "from_statespace": "bridges.pymc_extras",
        "from_pymc": "bridges.pymc_model",
        "compare": "comparison",
        "Status": "core",
        "Engine": "engine",
        "Fleet": "fleet",
        "RayFleet": "distributed.driver",
        "Immediate": "schedules",
        "Jitter": "schedules",
        "Paced": "schedules",
        "live": "watching.view",
    }

    def __getattr__(name):
        if name not in _HOME:
            raise AttributeError(f"module 'smcssm' has no attribute {name!r}")
        import importlib

        if _HOME[name] == "":
            return importlib.import_module(f"smcssm.{name}")
        value = globals()[name] = getattr(importlib.import_module(f"smcssm.{_HOME[name]}"), name)
        return value

    def __dir__():
        return sorted({*globals(), *_HOME})
