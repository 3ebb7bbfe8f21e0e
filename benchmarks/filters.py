"""The Kalman filter of many hyperparameters at once, beside other libraries' filters.

The log-likelihood of 500 observations for 1000 different linear Gaussian models (all matrices of their own), float64,
every library as it is meant to be used: dynamax (covariance form) and cuthbert (square roots) compiled and vmapped over
the models; statsmodels (compiled covariance form) and filterpy (NumPy) one model after the other, fewer of them, since
their cost per model does not depend on how many there are. Ours is the square-root filter with the particle axis last.
CPU nanoseconds per model and observation, the least of repeats: a busy machine disturbs little. Every library's
log-likelihoods are compared with a NumPy covariance filter's.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import environments

STEPS = 500
SIZES = {"ours": 1000, "dynamax": 1000, "cuthbert": 1000, "statsmodels": 50, "filterpy": 3}


def moved(parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Covariances, and the law of the state at the first observation."""
    P, Q, R = (parts[k] @ np.swapaxes(parts[k], -1, -2) for k in "LQR")
    F = parts["F"]
    P1 = F @ P @ np.swapaxes(F, -1, -2) + Q
    return {"m": (F @ parts["m"][..., None])[..., 0], "P": P1, "F": F, "Q": Q, "H": parts["H"], "R": R}


def ours(parts: dict[str, np.ndarray], ys: np.ndarray) -> Any:
    import jax
    import jax.numpy as jnp

    from benchmarks import kernels

    function, arrays = kernels.ours(parts, np.float64)
    arguments = jax.tree.map(jnp.asarray, (arrays, ys))
    program = jax.jit(function)
    return lambda: np.asarray(program(*arguments))


def dynamax(parts: dict[str, np.ndarray], ys: np.ndarray) -> Any:
    import jax
    import jax.numpy as jnp
    from dynamax.linear_gaussian_ssm.inference import lgssm_filter, make_lgssm_params

    def one(m: Any, P: Any, F: Any, Q: Any, H: Any, R: Any, ys: Any) -> Any:
        return lgssm_filter(make_lgssm_params(m, P, F, Q, H, R), ys).marginal_loglik

    program = jax.jit(jax.vmap(one, in_axes=(0,) * 6 + (None,)))
    arguments = [jnp.asarray(a) for a in (*moved(parts).values(), ys)]
    return lambda: np.asarray(program(*arguments))


def cuthbert(parts: dict[str, np.ndarray], ys: np.ndarray) -> Any:
    import jax
    import jax.numpy as jnp
    from cuthbert import filter as run_filter
    from cuthbert.gaussian import kalman

    a = {k: parts[k] for k in ("m", "L", "F", "Q", "H", "R")}  # it moves the state before the first observation
    nx, ny = a["F"].shape[-1], ys.shape[1]

    def one(m: Any, L: Any, F: Any, Q: Any, H: Any, R: Any, ys: Any) -> Any:
        built = kalman.build_filter(
            m, L, lambda _: (F, jnp.zeros(nx), Q), lambda y: (H, jnp.zeros(ny), R, y)
        )
        return run_filter(built, ys, built.init_prepare(), parallel=False).log_normalizing_constant[-1]

    program = jax.jit(jax.vmap(one, in_axes=(0,) * 6 + (None,)))
    arguments = [jnp.asarray(v) for v in (*a.values(), ys)]
    return lambda: np.asarray(program(*arguments))


def statsmodels(parts: dict[str, np.ndarray], ys: np.ndarray) -> Any:
    from statsmodels.tsa.statespace.kalman_filter import KalmanFilter

    a = moved(parts)
    nx = a["F"].shape[-1]
    filters = []
    for i in range(len(a["m"])):
        f = KalmanFilter(k_endog=ys.shape[1], k_states=nx)
        f.bind(np.ascontiguousarray(ys))
        f["transition"], f["state_cov"], f["selection"] = a["F"][i], a["Q"][i], np.eye(nx)
        f["design"], f["obs_cov"] = a["H"][i], a["R"][i]
        f.initialize_known(a["m"][i], a["P"][i])
        filters.append(f)
    return lambda: np.array([f.loglike() for f in filters])


def filterpy(parts: dict[str, np.ndarray], ys: np.ndarray) -> Any:
    from filterpy.kalman import KalmanFilter

    a = moved(parts)

    def one(i: int) -> float:
        f = KalmanFilter(dim_x=a["F"].shape[-1], dim_z=ys.shape[1])
        f.x, f.P = a["m"][i][:, None], a["P"][i]
        f.F, f.Q, f.H, f.R = (a[k][i] for k in "FQHR")
        total = 0.0
        for t, y in enumerate(ys):
            if t:
                f.predict()
            f.update(y)
            total += f.log_likelihood
        return total

    return lambda: np.array([one(i) for i in range(len(a["m"]))])


LIBRARIES = {"ours": ours, "dynamax": dynamax, "cuthbert": cuthbert, "statsmodels": statsmodels, "filterpy": filterpy}


def case(who: str, path: str, repeats: int) -> dict[str, float]:
    """First call in CPU seconds, nanoseconds per model and observation, and the largest error."""
    if who in ("ours", "dynamax", "cuthbert"):
        import jax

        jax.config.update("jax_enable_x64", True)
    stored = np.load(path)
    parts = {k: stored[k][: SIZES[who]] for k in ("m", "L", "F", "Q", "H", "R")}
    run, times = LIBRARIES[who](parts, stored["ys"]), []
    for _ in range(repeats + 1):
        start = time.process_time()
        found = run()
        times.append(time.process_time() - start)
    error = float(np.abs(found - stored["truth"][: SIZES[who]]).max())
    return {"first": times[0], "ns": 1e9 * float(np.min(times[1:])) / SIZES[who] / STEPS, "error": error}


def rows(quick: bool) -> list[dict[str, Any]]:
    from benchmarks import kernels

    out, repeats = [], 5 if quick else 15
    for nx, ny in ((2, 1), (4, 2)) if quick else ((2, 1), (4, 2), (6, 1), (13, 1)):
        parts, ys = kernels.dense(nx, ny, SIZES["ours"], STEPS)
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "models.npz")
            np.savez(path, **parts, ys=ys, truth=kernels.truth(parts, ys))
            mine = environments.ask_of(sys.executable, "filters", "ours", path, str(repeats))
            same = {"what": f"nx, ny = {nx}, {ny}", "unit": "CPU ns", "ours": mine["ns"], "first": mine["first"]}
            same |= {"error": mine["error"], "error_of": "log-likelihood, largest, nats"}
            for rival in list(LIBRARIES)[1:]:
                row = same | {"rival": rival}
                try:
                    theirs = environments.ask("filters", "filters", rival, path, str(repeats), limit=300)
                    row |= {"theirs": theirs["ns"], "their_first": theirs["first"], "their_error": theirs["error"]}
                except environments.RivalError as error:
                    row |= {"note": str(error)}
                out.append(row)
    return out


def main() -> None:
    who, path, repeats = sys.argv[1:]
    print(json.dumps(case(who, path, int(repeats))))


if __name__ == "__main__":
    main()
