"""Models against each other by their evidence on the same observations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logsumexp

from smcssm.engine import Engine
from smcssm.errors import InputError, ModelError

if TYPE_CHECKING:
    import pandas as pd


def compare(engines: Mapping[str, Engine], prior: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """Log evidences and posterior model probabilities, best model first.

    Columns: ``log_evidence`` and its Monte Carlo ``sd``; ``log_bayes_factor`` of the best model over this one and its
    ``bayes_factor_sd``, on the log scale; ``probability``.

    Args:
        engines: by name; all must have taken the same observations.
        prior: probabilities of the models, up to a factor; equal by default.

    Raises:
        InputError: engines that have seen different observations.
    """
    import pandas as pd

    log_prior = _log_prior(engines, prior)
    _check_same(engines)
    evidence: np.ndarray = np.array([e.log_evidence for e in engines.values()])
    sd = np.array([e.log_evidence_sd for e in engines.values()])
    log_posterior = evidence + log_prior
    best = int(np.argmax(evidence))
    difference = np.hypot(sd, sd[best])
    difference[best] = 0.0
    columns = {
        "log_evidence": evidence,
        "sd": sd,
        "log_bayes_factor": evidence[best] - evidence,
        "bayes_factor_sd": difference,
        "probability": np.exp(log_posterior - logsumexp(log_posterior)),
    }
    return pd.DataFrame(columns, index=list(engines)).sort_values("log_evidence", ascending=False)


def probabilities(engines: Mapping[str, Engine], prior: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """Posterior model probabilities after each observation that is on record, a column for each model."""
    import pandas as pd

    log_prior = _log_prior(engines, prior)
    _check_same(engines)
    records = {
        name: e.snapshot().record or {"t": np.zeros(0, int), "log_score": np.zeros(0)} for name, e in engines.items()
    }
    first = max(r["t"][0] if len(r["t"]) else 0 for r in records.values())
    sums: list[Any] = [np.asarray(r["log_score"])[r["t"] >= first] for r in records.values()]
    # backwards from the evidence: of what came before a warm start there are no sums
    kept: list[Any] = [e.log_evidence - (s[-1:] - s) for e, s in zip(engines.values(), sums, strict=True)]
    log_posterior = np.stack(kept, axis=-1) + log_prior
    values = np.exp(log_posterior - logsumexp(log_posterior, axis=-1, keepdims=True))
    times = next(iter(records.values()))["t"]
    return pd.DataFrame(values, index=pd.Index(times[times >= first], name="time"), columns=list(engines))


def _log_prior(engines: Mapping[str, Engine], prior: Mapping[str, Any] | None) -> np.ndarray:
    if not isinstance(engines, Mapping) or len(engines) < 2:
        raise ModelError('compare: expected at least two engines by name, {"a": engine_a, "b": engine_b}')
    given = dict.fromkeys(engines, 1.0) if prior is None else dict(prior)
    if set(given) != set(engines) or not all(p > 0 for p in given.values()):
        raise ModelError(f"compare(prior): expected a positive number for each of {', '.join(engines)}, got {prior!r}")
    return np.log([given[name] / sum(given.values()) for name in engines])


def _check_same(engines: Mapping[str, Engine]) -> None:
    """The same number of observations, and the same values as far as the records go back."""
    (first, one), *others = engines.items()
    for name, other in others:
        if one.t != other.t:
            raise InputError(f"compare: {first} has taken {one.t} observations, {name} {other.t}")
        a, b = (e.snapshot().record or {} for e in (one, other))
        if "y" in a and "y" in b:
            n = min(len(a["y"]), len(b["y"]))
            if not np.array_equal(a["y"][-n:], b["y"][-n:], equal_nan=True):
                raise InputError(f"compare: {first} and {name} have taken different observations")
