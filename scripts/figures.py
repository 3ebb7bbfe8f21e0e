"""The pictures of the README and of docs/concepts.md: real output, from the flow of the Nile (statsmodels).

    python scripts/figures.py

writes docs/images/*.png. Run it again when what they show has changed.
"""

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pymc as pm
from statsmodels.datasets import nile

import smcssm as ss
from smcssm import plots

IMAGES = Path(__file__).parents[1] / "docs" / "images"
DATA = nile.load_pandas().data
FLOW, YEARS = DATA["volume"].to_numpy(float), DATA["year"].to_numpy(float)
SCALES = {"sigma_level": 50.0, "sigma_obs": 150.0}


def new_engine(model: object, names: tuple[str, ...], n_particles: int = 1000) -> ss.Engine:
    """Half-normal priors."""
    with pm.Model() as prior:
        for name in names:
            pm.HalfNormal(name, SCALES[name])
    return ss.Engine(model, prior, n_particles=n_particles, seed=0)


def constant_level(theta: dict) -> dict:
    """A river that never changed."""
    return {"m0": [1120.0], "chol_P0": [[300.0]], "F": [[1.0]], "H": [[1.0]], "chol_R": [[theta["sigma_obs"]]]}


def exact(upto: int) -> tuple[np.ndarray, ...]:
    """The posterior on a grid."""
    level, obs = np.meshgrid(np.linspace(0.5, 160, 160), np.linspace(5, 420, 200), indexing="ij")
    log_p = -0.5 * ((level / 50) ** 2 + (obs / 150) ** 2)
    m, P = np.full_like(level, 1120.0), np.full_like(level, 300.0**2)
    for t, value in enumerate(FLOW[:upto]):
        P = P + (level**2 if t else 0.0)
        S = P + obs**2
        log_p += -0.5 * (np.log(S) + (value - m) ** 2 / S)
        m, P = m + P / S * (value - m), P * obs**2 / S
    return level, obs, np.exp(log_p - log_p.max())


def save(figure: plt.Figure, name: str) -> None:
    """As a small PNG."""
    figure.savefig(IMAGES / f"{name}.png", dpi=110)
    plt.close(figure)


def particles(engine: ss.Engine) -> plt.Figure:
    """The population after so many years, over contours of the exact posterior; the engine ends at t = 100."""
    figure, panels = plt.subplots(1, 4, figsize=(11, 3.1), sharex=True, sharey=True, layout="constrained")
    for ax, t in zip(panels, (0, 5, 30, 100), strict=True):
        engine.update(FLOW[engine.t : t], progress=False)
        shot = engine.snapshot()
        theta, w = shot.theta(), shot.weights().ravel()
        level, obs, p = exact(t)
        ordered = np.sort(p.ravel())[::-1]
        mass = np.cumsum(ordered) / ordered.sum()
        cuts = [ordered[np.searchsorted(mass, share)] for share in (0.95, 0.5)]
        size = np.minimum(3000 * w, 40)
        ax.scatter(theta["sigma_level"].ravel(), theta["sigma_obs"].ravel(), s=size, color="#0072B2", alpha=0.35, lw=0)
        ax.contour(level, obs, p, cuts, colors="#D55E00", linewidths=1.2)
        ax.set_title("the prior" if t == 0 else f"after {t} years", fontsize="medium")
        ax.set_xlim(0, 150)
        ax.set_ylim(0, 400)
        ax.set_xlabel("sigma_level")
        ax.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("sigma_obs")
    return figure


def main() -> None:
    """All of them."""
    IMAGES.mkdir(exist_ok=True)
    engine = new_engine(ss.models.LocalLevel(initial_mean=1120.0, initial_sd=300.0), tuple(SCALES))
    save(particles(engine), "particles")
    figure, axes = plt.subplot_mosaic([["flow", "level"], ["flow", "obs"]], figsize=(11, 4.2), layout="constrained",
                                      width_ratios=[2.2, 1])  # fmt: skip
    for ax in axes.values():
        ax.spines[["top", "right"]].set_visible(False)
    plots.forecast_fan(engine, h=15, index=YEARS, axes=axes["flow"])
    plots.hyperparameters(engine, index=YEARS, axes=[axes["level"], axes["obs"]])
    axes["flow"].set_ylabel("flow of the Nile, 10⁸ m³ a year")
    for ax in (axes["flow"], axes["obs"]):
        ax.set_xlabel("year")
    axes["level"].tick_params(labelbottom=False)
    figure.align_ylabels([axes["level"], axes["obs"]])
    save(figure, "nile")
    moved = plots.moves(engine, index=YEARS)
    moved.axes[-1].set_xlabel("year")
    save(moved, "moves")
    save(plots.pit_histogram(engine), "pit")
    fixed = new_engine(ss.models.LinearGaussian(constant_level, ("sigma_obs",)), ("sigma_obs",))
    fixed.update(FLOW, progress=False)
    save(plots.model_probabilities({"level wanders": engine, "level is constant": fixed}), "evidence")


if __name__ == "__main__":
    main()
