"""Metrics for Prometheus: rows, refusals, moves, effective sample size, status and the time a call takes, by stream.

Nothing is measured unless it is told here, so an engine that is not watched pays nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from smcssm.core import Status
from smcssm.errors import ModelError
from smcssm.fleets.infos import FleetInfo
from smcssm.record import StepInfo, StepInfos

SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


class Prometheus:
    """Counts what engines and fleets report, for ``prometheus_client`` to serve (``start_http_server(8000)``).

    A fleet is one stream: its counts add up over series, and of effective sample sizes there is the smallest.

    Args:
        registry: of ``prometheus_client``; its usual one by default.
        prefix: what names of metrics begin with.
    """

    def __init__(self, registry: Any = None, prefix: str = "smcssm") -> None:
        try:
            from prometheus_client import REGISTRY, Counter, Gauge, Histogram
        except ModuleNotFoundError:
            raise ModelError('metrics need prometheus_client: pip install "smcssm[metrics]"') from None
        where: dict[str, Any] = dict(labelnames=("stream",), registry=REGISTRY if registry is None else registry)
        self._rows = Counter(f"{prefix}_observations", "Observations taken", **where)
        self._moves = Counter(f"{prefix}_moves", "Times that a population was moved", **where)
        self._score = Counter(f"{prefix}_log_loss", "Sum of -log p(y_t | past), as far as it is positive", **where)
        self._ess = Gauge(f"{prefix}_ess", "Effective sample size after the last row, of series the smallest", **where)
        self._seconds = Histogram(f"{prefix}_step_seconds", "Time that a call took", buckets=SECONDS, **where)
        by_status: dict[str, Any] = where | {"labelnames": ("stream", "status")}
        self._status = Counter(f"{prefix}_status", "Rows by the worst thing that happened to them", **by_status)

    def observe(self, info: StepInfo | StepInfos | FleetInfo, stream: str = "") -> None:
        """Count what a call has reported."""
        status = np.atleast_1d(np.asarray(info.status, int))
        taken = info.taken if isinstance(info, FleetInfo) else status != Status.DROPPED
        if not taken.size:
            return
        self._rows.labels(stream).inc(int(taken.sum()))
        self._moves.labels(stream).inc(int(np.sum(info.moved)))
        self._score.labels(stream).inc(float(np.maximum(-np.atleast_1d(info.log_predictive)[taken], 0.0).sum()))
        one_row = isinstance(info, FleetInfo) and taken.ndim == 1
        last = info.ess if one_row else np.atleast_1d(info.ess)[-1]
        if np.isfinite(last).any():
            self._ess.labels(stream).set(float(np.nanmin(last)))
        counted = status[taken | (status != Status.OK)]
        for code, count in zip(*np.unique(counted, return_counts=True), strict=True):
            self._status.labels(stream, Status(int(code)).name).inc(int(count))

    @contextlib.contextmanager
    def timed(self, stream: str = "") -> Iterator[None]:
        """Around a call: how long it took, also when it fails."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds.labels(stream).observe(time.perf_counter() - start)
