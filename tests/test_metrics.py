"""Metrics add up to what was reported."""

import numpy as np
import pytest

import smcssm as ss
from smcssm.fleets.infos import FleetInfo
from smcssm.record import StepInfos

client = pytest.importorskip("prometheus_client")


def infos(kind, there, **extra):
    blank = dict.fromkeys(("predictive_mean", "predictive_sd", "pit", "acceptance"), np.zeros(there.shape))
    t, moved = np.arange(there.size).reshape(there.shape), there & (np.arange(there.shape[-1]) == 0)
    return kind(t=t, moved=moved, log_predictive=np.where(there, -2.0, np.nan), **blank, **extra)


def test_what_is_counted():
    registry = client.CollectorRegistry()
    metrics = ss.metrics.Prometheus(registry)

    def value(name, stream, **labels):
        return registry.get_sample_value(f"smcssm_{name}", {"stream": stream, **labels})

    taken = np.asarray([[True, False, True], [True, True, False]])
    status = np.where(taken, ss.Status.OK, ss.Status.IMPOSSIBLE)
    ess = np.where(taken, [[5.0, 6.0, 7.0], [8.0, 4.0, 1.0]], np.nan)
    block = infos(FleetInfo, taken, names=tuple("abc"), taken=taken, ess=ess, status=status)
    metrics.observe(block, "fleet")
    one = infos(FleetInfo, taken[0], names=tuple("abc"), taken=taken[0], ess=ess[0], status=status[0])
    metrics.observe(one, "fleet")
    assert value("observations_total", "fleet") == 6
    assert value("moves_total", "fleet") == 3
    assert value("log_loss_total", "fleet") == 12
    assert value("ess", "fleet") == 5.0
    assert value("status_total", "fleet", status="IMPOSSIBLE") == 3
    kept = np.asarray([False, True, True])
    codes = np.where(kept, ss.Status.OK, ss.Status.DROPPED)
    rows = infos(StepInfos, kept, ess=np.asarray([np.nan, 9.0, 8.0]), status=codes)
    metrics.observe(rows, "engine")
    metrics.observe(rows[2], "engine")
    assert value("observations_total", "engine") == 3
    assert value("status_total", "engine", status="DROPPED") == 1
    assert value("ess", "engine") == 8.0
    with pytest.raises(ZeroDivisionError), metrics.timed("engine"):
        raise ZeroDivisionError
    assert value("step_seconds_count", "engine") == 1
