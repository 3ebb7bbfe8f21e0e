"""The headline: a streaming posterior against particles and smcx, for what equal accuracy costs.

Three hyperparameters of a local linear trend and of AR(1) + noise, the same data and priors for all. The measure is
work for equal accuracy: CPU seconds times mean squared error of the posterior means (in posterior sds, over seeds,
against importance sampling with exact likelihoods). With any number of particles that product is about the same, as
long as the error is variance and not bias, so a rival runs at the size that time allows, and the ratio of the products
is how many times the work it needs for our accuracy. Its 90% interval is from a bootstrap over seeds on both sides,
where there are eight or more of each. Where a rival cannot take the stream at its full length, both sides run a shorter
one, as the row says.

Ours and IBIS know these likelihoods exactly; the two SMC2 estimate them by bootstrap filters, which is most of what
stands between them and us (of what estimates cost at equal numbers the next section tells). At a size that time allows
they may be biased as well. IBIS in NumPy takes less processor time than ours for one run, and more for one accuracy.

Ours is `Engine(n_particles=1000)`, all defaults. Against it, each in its own process, repeats only (programs compiled):

    particles IBIS   with exact likelihoods: a Kalman filter over all particles at once in NumPy, written for this, the
                     beliefs carried from row to row; waste-free with chains of 10, its default; as many particles
    particles SMC2   its stock: bootstrap filters, 100 inner particles at first, more when acceptance falls below 0.2
    smcx SMC2        bootstrap filters, three moves
"""

import json
import sys
import time
from typing import Any

import numpy as np

from benchmarks import environments
from benchmarks.problems import PROBLEMS, truth

N = 1000


def told(theta: np.ndarray, weight: np.ndarray, log_evidence: float) -> dict[str, Any]:
    w = weight / weight.sum()
    return {"mean": (theta @ w).tolist(), "log_evidence": float(log_evidence)}


# --- the libraries: each returns a function of a seed


def engine_of(problem: Any) -> Any:
    """A function of a seed that builds ours."""
    import smcssm as ss

    laws = {
        name: ss.priors.Beta(1.0, 1.0) if scale is None else ss.priors.HalfNormal(scale)
        for name, scale in zip(problem.names, problem.scales, strict=True)
    }

    def ar(theta: Any) -> dict[str, Any]:
        noise = {"chol_Q": [[theta["sigma_ar"]]], "chol_R": [[theta["sigma_obs"]]]}
        return {"m0": [0.0], "chol_P0": [[2.0]], "F": [[theta["phi"]]], "H": [[1.0]], **noise}

    trend = ss.models.LocalLinearTrend(initial_mean=(0.0, 0.0), initial_sd=(10.0, 1.0))
    model = ss.models.LinearGaussian(ar, problem.names) if problem.unit else trend
    prior = ss.priors.Independent(laws)
    return lambda seed: ss.Engine(model, prior, n_particles=N, record=None, seed=seed)


def ours(problem: Any, y: np.ndarray, *_: int) -> Any:
    engine_at = engine_of(problem)

    def run(seed: int) -> dict[str, Any]:
        engine = engine_at(seed)
        engine.update(y, progress=False)
        snapshot = engine.snapshot()
        theta = np.stack([snapshot.theta()[name][0] for name in problem.names])
        draws = theta[:, np.random.default_rng(seed).choice(N, 200, p=snapshot.weights()[0])]
        return told(theta, snapshot.weights()[0], engine.log_evidence) | {"draws": draws.tolist()}

    return run


def particles_prior(problem: Any) -> Any:
    from particles import distributions as dists

    def law(scale: float | None) -> Any:
        return dists.Uniform(0.0, 1.0) if scale is None else dists.TruncNormal(mu=0.0, sigma=scale, a=0.0, b=np.inf)

    return dists.StructDist({k: law(s) for k, s in zip(problem.names, problem.scales, strict=True)})


def fields(problem: Any, theta: Any) -> np.ndarray:
    return np.stack([theta[name] for name in problem.names])


def ibis(problem: Any, y: np.ndarray, n: int, _: int) -> Any:
    import particles
    from particles import smc_samplers

    class Model(smc_samplers.StaticModel):
        def logpyt(self, theta: Any, t: int) -> Any:
            raise NotImplementedError

    class Exact(smc_samplers.IBIS):
        """Beliefs are fields of the particles, as filters are in SMC2."""

        def logG(self, t: int, xp: Any, x: Any) -> np.ndarray:
            belief = tuple(x.belief.T)
            increment, belief = problem.row(fields(problem, x.theta), belief, y[t], t == 0)
            x.belief = np.stack(belief, axis=1)
            x.lpost += increment
            return increment

        def current_target(self, t: int) -> Any:
            def target(x: Any) -> None:
                x.lpost = self.model.prior.logpdf(x.theta)
                theta, belief = fields(problem, x.theta), problem.start(len(x.theta))
                for s in range(t + 1):
                    increment, belief = problem.row(theta, belief, y[s], s == 0)
                    x.lpost += increment
                x.belief = np.stack(belief, axis=1)

            return target

    def run(seed: int) -> dict[str, Any]:
        np.random.seed(seed)  # noqa: NPY002
        fk = Exact(model=Model(data=y, prior=particles_prior(problem)), len_chain=10)
        alg = particles.SMC(fk=fk, N=n // 10, ESSrmin=0.5)
        alg.run()
        return told(fields(problem, alg.X.theta), alg.W, alg.logLt)

    return run


def smc2(problem: Any, y: np.ndarray, n: int, m: int) -> Any:
    import particles
    from particles import distributions as dists
    from particles import smc_samplers, state_space_models

    class AR(state_space_models.StateSpaceModel):
        def PX0(self) -> Any:
            return dists.Normal(scale=2.0)

        def PX(self, t: int, xp: Any) -> Any:
            return dists.Normal(loc=self.phi * xp, scale=self.sigma_ar)

        def PY(self, t: int, xp: Any, x: Any) -> Any:
            return dists.Normal(loc=x, scale=self.sigma_obs)

    class LevelAndSlope(state_space_models.StateSpaceModel):
        def PX0(self) -> Any:
            return dists.IndepProd(dists.Normal(scale=10.0), dists.Normal(scale=1.0))

        def PX(self, t: int, xp: Any) -> Any:
            level = dists.Normal(loc=xp[:, 0] + xp[:, 1], scale=self.sigma_level)
            return dists.IndepProd(level, dists.Normal(loc=xp[:, 1], scale=self.sigma_trend))

        def PY(self, t: int, xp: Any, x: Any) -> Any:
            return dists.Normal(loc=x[:, 0], scale=self.sigma_obs)

    def run(seed: int) -> dict[str, Any]:
        np.random.seed(seed)  # noqa: NPY002
        model, prior = AR if problem.unit else LevelAndSlope, particles_prior(problem)
        sizes = {"init_Nx": m, "ar_to_increase_Nx": 0.2}
        fk = smc_samplers.SMC2(ssm_cls=model, prior=prior, data=y, len_chain=10, **sizes)
        alg = particles.SMC(fk=fk, N=n // 10, ESSrmin=0.5)
        alg.run()
        return told(fields(problem, alg.X.theta), alg.W, alg.logLt) | {"inner": int(alg.X.pfs[0].N)}

    return run


def smcx(problem: Any, y: np.ndarray, n: int, m: int) -> Any:
    import jax
    import jax.numpy as jnp
    import smcx as rival
    from jax.scipy.stats import norm

    jax.config.update("jax_enable_x64", True)
    ar = bool(problem.unit)

    def positive(z: Any) -> Any:
        return jnp.concatenate([jax.nn.sigmoid(z[..., :1]), jnp.exp(z[..., 1:])], axis=-1) if ar else jnp.exp(z)

    def draw(key: Any, n: int) -> Any:
        a, b = jax.random.split(key)
        scales = jnp.asarray([s for s in problem.scales if s is not None])
        sizes = jnp.log(jnp.abs(jax.random.normal(a, (n, len(scales)))) * scales)
        return jnp.concatenate([jax.random.logistic(b, (n, 1)), sizes], axis=-1) if ar else sizes

    def density(z: Any) -> Any:
        scales = jnp.asarray([s for s in problem.scales if s is not None])
        v = z[1:] if ar else z
        total = jnp.sum(norm.logpdf(jnp.exp(v), scale=scales) + jnp.log(2.0) + v)
        return total + (jax.nn.log_sigmoid(z[0]) + jax.nn.log_sigmoid(-z[0]) if ar else 0.0)

    def initial(key: Any, m: int, z: Any) -> Any:
        return jnp.asarray([2.0] if ar else [10.0, 1.0]) * jax.random.normal(key, (m, 1 if ar else 2))

    def transition(key: Any, x: Any, z: Any) -> Any:
        p, e = positive(z), jax.random.normal(key, x.shape)
        return p[0] * x + p[1] * e if ar else jnp.stack([x[0] + x[1], x[1]]) + p[:2] * e

    def observation(y: Any, x: Any, z: Any) -> Any:
        return norm.logpdf(y[0], x[0], positive(z)[2])

    def run(seed: int) -> dict[str, Any]:
        functions = draw, density, initial, transition, observation
        found = rival.smc2(
            jax.random.key(seed), *functions, jnp.asarray(y), n, m, num_pmmh_steps=3, store_history=False
        )
        weight = np.exp(np.asarray(found.filtered_log_weights[-1]))
        return told(np.asarray(positive(found.filtered_params[-1])).T, weight, found.marginal_loglik)

    return run


LIBRARIES = {"ours": ours, "particles IBIS": ibis, "particles SMC2": smc2, "smcx SMC2": smcx}


def case(who: str, problem: str, lengths: list[int], n: int, m: int, seeds: int, budget: float) -> dict[str, Any]:
    """Of each length every seed until time is up: what it found, CPU seconds; the very first call, wall seconds."""
    out: dict[str, Any] = {}
    for length in lengths:
        run, begun = LIBRARIES[who](PROBLEMS[problem], PROBLEMS[problem].data(length), n, m), time.perf_counter()
        run(10_000)
        out.setdefault("first", time.perf_counter() - begun)
        begun, found = time.perf_counter(), []
        for seed in range(seeds):
            if len(found) >= 2 and time.perf_counter() - begun > budget:
                break
            cpu = time.process_time()
            result = run(seed)
            found.append(result | {"cpu_s": time.process_time() - cpu})
        out[str(length)] = found
    return out


# --- all together


def products(found: list[dict[str, Any]], right: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Of each seed: mean squared error of the means in posterior sds, and CPU seconds."""
    means = np.array([r["mean"] for r in found])
    errors = np.mean(((means - right["mean"]) / right["sd"]) ** 2, axis=1)
    return errors, np.array([r["cpu_s"] for r in found])


def interval(mine: tuple, theirs: tuple, rounds: int = 4000) -> tuple[float, float]:
    """90% of the ratio of products, seeds drawn anew."""
    rng = np.random.default_rng(0)

    def draw(errors: np.ndarray, seconds: np.ndarray) -> np.ndarray:
        i = rng.integers(len(errors), size=(rounds, len(errors)))
        return errors[i].mean(axis=1) * seconds[i].mean(axis=1)

    low, high = np.quantile(draw(*theirs) / draw(*mine), [0.05, 0.95])
    return float(low), float(high)


def compare(problem: str, who: str, length: int, sizes: tuple[int, int], quick: bool, mine: Any) -> Any:
    """One row, beside what was measured of ours."""
    p, seeds, budget = PROBLEMS[problem], 16 if quick else 32, 30.0 if quick else 600.0
    found = mine[str(length)]
    pilot = np.concatenate([np.array(r["draws"]) for r in found], axis=1)
    right = truth(p, p.data(length), pilot, 40_000 if quick else 200_000)
    a = products(found, right)
    row = {"what": f"{p.title}, T = {length}: work for equal error", "unit": "CPU s x squared error"}
    row |= {"ours": float(a[0].mean() * a[1].mean()), "first": mine["first"], "error": float(a[0].mean() ** 0.5)}
    row |= {"rival": f"{who}, N = {sizes[0]}" + (f", M = {sizes[1]}" if sizes[1] else "")}
    row |= {"error_of": f"means, rms, posterior sds; {len(a[0])} seeds of {a[1].mean():.2g} CPU s"}
    job = ("--case", who, problem, str(length), *map(str, sizes), str(seeds), str(budget))
    try:
        theirs = environments.ask(who.split()[0], "headline", *job, limit=300 if quick else 3600)
    except environments.RivalError as error:
        return row | {"note": str(error)}
    b = products(theirs[str(length)], right)
    row |= {"theirs": float(b[0].mean() * b[1].mean()), "their_first": theirs["first"]}
    row |= {"interval": interval(a, b)} if min(len(a[0]), len(b[0])) >= 8 else {}
    row["error_of"] += f" / {len(b[0])} of {b[1].mean():.2g}"
    return row | {"their_error": float(b[0].mean() ** 0.5)}


def rows(quick: bool) -> list[dict[str, Any]]:
    short, tiny = (100, 50) if quick else (250, 100)
    out = []
    for problem in PROBLEMS:
        job = ("--case", "ours", problem, f"1000,{short},{tiny}", str(N), "0", "32", "1e9")
        mine = environments.ask_of(sys.executable, "headline", *job, limit=1800)
        out.append(compare(problem, "particles IBIS", 1000, (1000, 0), quick, mine))
        out.append(compare(problem, "particles SMC2", short, (200, 100), quick, mine))
        out.append(compare(problem, "smcx SMC2", tiny, (64, 64), quick, mine))
    return out


def main() -> None:
    who, problem, lengths, n, m, seeds, budget = sys.argv[2:]
    several = [int(t) for t in lengths.split(",")]
    print(json.dumps(case(who, problem, several, int(n), int(m), int(seeds), float(budget))))


if __name__ == "__main__":
    main()
