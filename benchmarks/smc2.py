"""SMC² for stochastic volatility beside particles (Chopin) and smcx, at equal N and M, accuracy next to time.

The same model, priors, data, N and M, each library in a process of its own. First call and repeat (another seed), CPU
seconds; a particle-step is one step of one inner particle, in the stream or in a replay for a move, and every library's
own are counted. Ours sweeps until particles have forgotten where they were, which is more work and less error than the
three sweeps of a move that rivals are given: the time of the whole stream has that in it, and errors stand beside it.
The reference: importance sampling with exact likelihoods, by a filter on a grid, around what we found.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

NAMES = ("mu", "phi", "sigma")
MU, MEDIAN, SPREAD = (-1.0, 1.0), 0.3, 0.5  # mu ~ N(-1, 1), phi ~ U(0, 1), sigma ~ LogNormal(log 0.3, 0.5)
MEASURES = {  # whether more is better
    "steps of inner particles, millions per CPU second": True,
    "the whole stream, CPU s": False,
}
SWEEPS = 3  # of a move, for rivals; ours go on until they have forgotten where they were


def data(length):
    rng, h = np.random.default_rng(0), -1.0
    y = np.empty(length)
    for t in range(length):
        h = -1.0 + 0.95 * (h + 1.0) + 0.25 * rng.standard_normal()
        y[t] = np.exp(h / 2) * rng.standard_normal()
    return y


def summary(theta, weight, log_evidence, steps):
    """Of draws [n, 3] as (mu, phi, sigma)."""
    w = np.asarray(weight) / np.sum(weight)
    mean = w @ theta
    sd = np.sqrt(w @ (theta - mean) ** 2)
    return {"mean": mean.tolist(), "sd": sd.tolist(), "log_evidence": float(log_evidence), "steps": float(steps)}


# --- the libraries: each returns a function of a seed ----------------------------------------------------------------


def ours(y, n, m):
    import smcssm as ss

    laws = {"mu": ss.priors.Normal(*MU), "phi": ss.priors.Beta(1.0, 1.0)}
    prior = ss.priors.Independent(laws | {"sigma_volatility": ss.priors.LogNormal(MEDIAN, SPREAD)})

    def run(seed):
        filter = ss.filters.Particle(n_particles=m)
        engine = ss.Engine(
            ss.models.StochasticVolatility(), prior, filter=filter, n_particles=n, record=None, seed=seed
        )
        replayed = 0
        for t, value in enumerate(y, 1):
            if engine.step(value).moved:
                replayed += t * int(engine._runtime.state.last_move.sweeps[0])
        snapshot = engine.snapshot()
        theta = snapshot.theta()
        draws = np.stack([theta[k][0] for k in ("mu", "phi", "sigma_volatility")], axis=-1)
        m_now = snapshot.smc.filter.inner(snapshot.population.belief)
        assert m_now == m, "M has changed: count particle-steps anew"
        return summary(draws, snapshot.weights()[0], engine.log_evidence, (len(y) + replayed) * n * m)

    return run


def particles(y, n, m):
    import particles as rival
    from particles import distributions as dists
    from particles import smc_samplers, state_space_models

    laws = {
        "mu": dists.Normal(*MU),
        "rho": dists.Uniform(0.0, 1.0),
        "sigma": dists.LogNormal(np.log(MEDIAN), SPREAD),
    }

    class Counting(smc_samplers.SMC2):
        rows = 0

        def logG(self, t, xp, x):
            self.rows += x.N
            return super().logG(t, xp, x)

        def current_target(self, t, Nx):
            target = super().current_target(t, Nx)

            def counted(x):
                target(x)
                self.rows += (t + 1) * x.N

            return counted

    def run(seed):
        np.random.seed(seed)  # noqa: NPY002
        prior = dists.StructDist(laws)
        model = state_space_models.StochVol
        fk = Counting(ssm_cls=model, prior=prior, data=y, init_Nx=m, wastefree=False, len_chain=SWEEPS + 1)
        alg = rival.SMC(fk=fk, N=n, ESSrmin=0.5)
        alg.run()
        draws = np.stack([alg.X.theta[k] for k in ("mu", "rho", "sigma")], axis=-1)
        return summary(draws, alg.W, alg.logLt, fk.rows * m)

    return run


def smcx(y, n, m):
    import jax
    import jax.numpy as jnp
    import smcx as rival
    from jax.scipy.stats import norm

    jax.config.update("jax_enable_x64", True)

    def constrain(z):
        return z[..., 0], jax.nn.sigmoid(z[..., 1]), jnp.exp(z[..., 2])

    def prior_draws(key, n):
        a, b, c = jax.random.split(key, 3)
        mu, sigma = (loc + sd * jax.random.normal(k, (n,)) for k, (loc, sd) in ((a, MU), (c, (np.log(MEDIAN), SPREAD))))
        return jnp.stack([mu, jax.random.logistic(b, (n,)), sigma], axis=-1)

    def log_prior(z):
        of_phi = jax.nn.log_sigmoid(z[1]) + jax.nn.log_sigmoid(-z[1])
        return norm.logpdf(z[0], *MU) + of_phi + norm.logpdf(z[2], np.log(MEDIAN), SPREAD)

    def initial(key, m, z):
        mu, phi, sigma = constrain(z)
        return mu + sigma / jnp.sqrt(1 - phi**2) * jax.random.normal(key, (m, 1))

    def transition(key, x, z):
        mu, phi, sigma = constrain(z)
        return mu + phi * (x - mu) + sigma * jax.random.normal(key, x.shape)

    def log_observation(y, x, z):
        return norm.logpdf(y[0], 0.0, jnp.exp(0.5 * x[0]))

    def run(seed):
        key, ys = jax.random.key(seed), jnp.asarray(y)
        functions = prior_draws, log_prior, initial, transition, log_observation
        found = rival.smc2(key, *functions, ys, n, m, num_pmmh_steps=SWEEPS, store_history=False)
        moves = np.flatnonzero(np.asarray(found.acceptance_rates) > 0) + 1
        draws = np.stack(constrain(found.filtered_params[-1]), axis=-1)
        rows = len(y) + SWEEPS * moves.sum()
        return summary(draws, np.exp(found.filtered_log_weights[-1]), found.marginal_loglik, rows * n * m)

    return run


LIBRARIES = {"ours": ours, "particles": particles, "smcx": smcx}


def measure(who, y, n, m):
    """First call and repeat."""
    run, out = LIBRARIES[who](y, n, m), []
    for seed in (0, 1):
        cpu = time.process_time()
        found = run(seed)
        out.append(found | {"cpu_s": time.process_time() - cpu})
    return {"who": who, "first": out[0], "repeat": out[1]}


# --- the reference ---------------------------------------------------------------------------------------------------


def log_likelihood(y, mu, phi, sigma):
    """Exact up to the width of a cell, at most half of sigma but for phi > 0.9999."""
    stationary = sigma / np.sqrt(1 - phi**2)
    cells = int(np.clip(28 * stationary / sigma, 200, 2000))
    x = np.linspace(mu - 7 * stationary, mu + 7 * stationary, cells)
    p = np.exp(-0.5 * ((x - mu) / stationary) ** 2)
    step = np.exp(-0.5 * ((x[None] - mu - phi * (x[:, None] - mu)) / sigma) ** 2) * (x[1] - x[0])
    p, step, total = p / p.sum(), step / (sigma * np.sqrt(2 * np.pi)), 0.0
    for t, value in enumerate(y):
        log_g = -0.5 * (np.log(2 * np.pi) + x + value**2 * np.exp(-x))
        p = (p @ step if t else p) * np.exp(log_g - log_g.max())
        if p.sum() == 0.0:
            return -np.inf  # below 1e-300 of the best state's
        total += log_g.max() + np.log(p.sum())
        p = p / p.sum()
    return total


def reference(y, around, draws, degrees=5):
    """Importance sampling from a Student-t around a posterior that was found, in (mu, logit phi, log sigma)."""
    mean, sd = np.array(around["mean"]), np.array(around["sd"])
    centre = np.array([mean[0], np.log(mean[1] / (1 - mean[1])), np.log(mean[2])])
    scale = 1.3 * sd / np.array([1.0, mean[1] * (1 - mean[1]), mean[2]])
    rng = np.random.default_rng(1)
    e = rng.standard_normal((draws, 3)) / np.sqrt(rng.chisquare(degrees, (draws, 1)) / degrees)
    z = centre + scale * e
    mu, phi, sigma = z[:, 0], 1 / (1 + np.exp(-z[:, 1])), np.exp(z[:, 2])
    normal = lambda v, m, s: -0.5 * ((v - m) / s) ** 2 - np.log(s) - 0.5 * np.log(2 * np.pi)  # noqa: E731
    log_prior = normal(mu, *MU) + np.log(phi * (1 - phi)) + normal(z[:, 2], np.log(MEDIAN), SPREAD)
    from math import lgamma

    constant = lgamma((degrees + 3) / 2) - lgamma(degrees / 2) - 1.5 * np.log(degrees * np.pi) - np.log(scale).sum()
    log_q = constant - (degrees + 3) / 2 * np.log1p((e**2).sum(axis=1) / degrees)
    log_w = np.array([log_likelihood(y, *theta) for theta in zip(mu, phi, sigma, strict=True)]) + log_prior - log_q
    w = np.exp(log_w - log_w.max())
    found = summary(np.stack([mu, phi, sigma], axis=-1), w, log_w.max() + np.log(w.mean()), 0)
    return found | {"log_evidence_error": float(w.std() / w.mean() / draws**0.5), "ess": float(w.sum() ** 2 / (w @ w))}


# --- all together ----------------------------------------------------------------------------------------------------


def rows(quick):
    from benchmarks import environments

    length, n, m, draws = (100, 64, 64, 300) if quick else (500, 256, 256, 1000)
    y = data(length)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "y.json"
        path.write_text(json.dumps(y.tolist()))
        job = (str(path), str(n), str(m))
        found = environments.ask_of(sys.executable, "smc2", "ours", *job, limit=1800)
        truth = reference(y, found["repeat"], draws)
        same = {"error_of": "means, largest, posterior sds (one run)"}
        mine, out = figures(found, truth), []
        for rival in ("particles", "smcx"):
            try:
                theirs = environments.ask(rival, "smc2", rival, *job, limit=900 if quick else 3600)
                theirs, note = figures(theirs, truth), ""
            except environments.RivalError as error:
                theirs, note = {}, str(error)
            for what, more in MEASURES.items():
                name, _, unit = what.partition(", ")
                row = {"what": f"T = {length}, N = {n}, M = {m}: {name}", "unit": unit, "more_is_better": more}
                row |= {"ours": mine[what], "first": mine["first"], "error": mine["error"], "rival": rival}
                row |= {"theirs": theirs.get(what), "their_first": theirs.get("first"), "note": note}
                out.append(same | row | {"their_error": theirs.get("error")})
    return out


def figures(result, truth):
    """Of a repeat: throughput, CPU seconds, and the largest error of the means in posterior sds."""
    r, off = result["repeat"], np.abs((np.array(result["repeat"]["mean"]) - truth["mean"]) / truth["sd"])
    measured = (1e-6 * r["steps"] / r["cpu_s"], r["cpu_s"])
    found = dict(zip(MEASURES, measured, strict=True))
    return found | {"first": result["first"]["cpu_s"], "error": float(off.max())}


def main():
    who, path, n, m = sys.argv[1:]
    print(json.dumps(measure(who, np.array(json.loads(Path(path).read_text())), int(n), int(m))))


if __name__ == "__main__":
    main()
