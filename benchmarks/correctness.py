"""How right the answers are, measured: docs/correctness.md.

    python -m benchmarks correctness [PART ...] [--quick]

Parts are posteriors, nuts, likelihoods, frozen, evidence and calibration; without one all are measured. ``page`` only
writes the page from what was measured before.
"""

import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import unbiased
from benchmarks.records import RESULTS, ROOT, about

sys.path.insert(0, str(ROOT / "tests"))  # its oracles are the ones that the tests hold everything to


# --- measuring


def posteriors(quick: bool) -> dict[str, Any]:
    """Errors of means, sds and quantiles against quadrature, of each case and schedule."""
    import posteriors as cases
    import smcssm as ss

    length, n, runs = (100, 500, 8) if quick else (300, 1000, 128)
    rows = []
    for name, case in cases.CASES.items():
        y = case.simulate(length, 1)
        truth, unit = cases.flat(case.answer(y))
        for schedule in (ss.Immediate(), ss.Paced()):
            engine = ss.Engine(case.model, case.prior, n_particles=n, runs=runs, schedule=schedule, record=None, seed=1)
            engine.update(y, progress=False)
            errors = (cases.per_run(engine, case.names) - truth) / unit
            bias, sd = errors.mean(axis=0), errors.std(axis=0, ddof=1)
            z = np.abs(bias) / (sd / math.sqrt(runs))
            rows.append(
                {"case": name, "schedule": type(schedule).__name__, "quantities": len(z) - 1}
                | {"largest bias": float(np.abs(bias[:-1]).max()), "largest sd": float(sd[:-1].max())}
                | {"largest z": float(z[:-1].max()), "evidence bias": float(bias[-1])}
                | {"evidence sd": float(sd[-1]), "evidence": float(truth[-1])}
            )
    return {"length": length, "n": n, "runs": runs, "rows": rows}


def evidence(quick: bool) -> dict[str, Any]:
    """Bias of the log evidence, and of the evidence itself, at several numbers of particles, with tuning adapted."""
    import posteriors as cases
    import smcssm as ss

    sizes, found = {250: 128, 1000: 64} if quick else {250: 256, 1000: 128, 4000: 64}, []
    for name, length in (("local level", 100), ("AR(1) + noise", 300)):
        case, rows = cases.CASES[name], []
        y = case.simulate(length, 1)
        truth = case.answer(y).log_evidence
        for n, runs in sizes.items():
            engine = ss.Engine(case.model, case.prior, n_particles=n, runs=runs, record=None, seed=2)
            engine.update(y, progress=False)
            error = engine.snapshot().log_evidence() - truth
            bias, sd = float(error.mean()), float(error.std(ddof=1))
            row = {"n": n, "runs": runs, "bias": bias, "bias se": sd / math.sqrt(runs), "sd": sd}
            rows.append(row | {f"evidence {k}": v for k, v in unbiased.mean_ratio(error).items()})
            print(name, rows[-1], flush=True)
        found.append({"case": name, "length": length, "rows": rows} | of_order(rows))
    return {"cases": found}


def of_order(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The fit of c / n to the bias."""
    n, bias, se = (np.array([r[k] for r in rows]) for k in ("n", "bias", "bias se"))
    weight = 1 / se**2
    c = float(np.sum(weight * bias / n) / np.sum(weight / n**2))
    chi2 = float(np.sum(((bias - c / n) / se) ** 2))
    return {"c": c, "c se": float(np.sum(weight / n**2) ** -0.5), "chi2": chi2, "degrees": len(n) - 1}


def calibration(quick: bool) -> dict[str, Any]:
    """Ranks of the truth in the posterior: p-values for uniformity, over times and quantities."""
    import smcssm as ss
    import test_calibration as sbc

    level = sbc.LEVEL
    size = ((10, 60), 80) if quick else ((10, 100, 400), 200)
    schedules = {"Immediate": ss.Immediate(), "Paced(4)": ss.Paced(budget=4)}
    todo = [(f"{name}, Metropolis", schedule, None, level, size) for name, schedule in schedules.items()]
    if not quick:
        walk = ss.moves.Metropolis("random_walk")
        moves = {"random walk": walk, "MALA": ss.moves.MALA(), "HMC": ss.moves.HMC(), "NUTS": ss.moves.NUTS()}
        moves["WasteFree"] = ss.moves.WasteFree(16)
        todo += [(f"Immediate, {name}", ss.Immediate(), move, level, ((10, 60), 160)) for name, move in moves.items()]
        for name, study in (("RaoBlackwell(4)", sbc.SWITCHING), ("Particle(32)", sbc.VOLATILE)):
            todo.append((f"{name}, Immediate, Metropolis", ss.Immediate(), None, study, ((10, 60), 160)))
    rows = []
    for name, schedule, move, study, (times, count) in todo:
        u = sbc.ranks(schedule, times, count, move=move, study=study)
        p = sbc.p_values(u)
        row = {"what": name, "model": type(study.model).__name__, "times": times, "count": count}
        rows.append(row | {"smallest": float(p.min()), "of": int(p.size), "mean": u.mean(axis=0).tolist()})
        print(f"{name}: smallest p {p.min():.3g}, limit {0.01 / p.size:.2g}", flush=True)
    return {"rows": rows}


def nuts(quick: bool) -> dict[str, Any]:
    """See `benchmarks.nuts`, which needs NumPyro."""
    from benchmarks.nuts import against_nuts

    return against_nuts(quick)


PARTS = {
    "posteriors": posteriors,
    "nuts": nuts,
    "likelihoods": unbiased.likelihoods,
    "frozen": unbiased.frozen,
    "evidence": evidence,
    "calibration": calibration,
}


# --- the page


def table(heads: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (heads, ["---"] * len(heads), *rows)]
    return "\n".join(lines) + "\n"


def measured(name: str, told: dict[str, Any]) -> str:
    """When, where, and by which command."""
    quick = " --quick" if told["sizes"] == "quick" else ""
    return f"*`python -m benchmarks correctness {name}{quick}`, {told['date'][:10]}, {told['seconds']:.0f} s.*\n"


def of_posteriors(found: dict[str, Any]) -> str:
    text = (
        "Means, standard deviations and three quantiles of every hyperparameter, and the evidence, against quadrature: "
        f"{found['length']} observations, {found['runs']} runs of {found['n']} particles. Errors are in posterior "
        "sds, those of the log evidence in nats. z is a bias over its standard error, the largest of so many.\n"
    )
    heads = ["posterior", "schedule", "largest bias", "sd of a run", "largest z, of", "log evidence: bias", "sd", "z"]
    rows = [
        [
            r["case"],
            r["schedule"],
            f"{r['largest bias']:.3f}",
            f"{r['largest sd']:.3f}",
            f"{r['largest z']:.1f}, {r['quantities']}",
            f"{r['evidence bias']:+.3f}",
            f"{r['evidence sd']:.3f}",
            f"{abs(r['evidence bias']) / r['evidence sd'] * math.sqrt(found['runs']):.1f}",
        ]
        for r in found["rows"]
    ]
    return "## Agreement with quadrature\n\n" + text + "\n" + table(heads, rows)


def of_evidence(found: dict[str, Any]) -> str:
    fits = "; ".join(
        f"{f['case']}, {f['length']} observations: c = {f['c']:.1f} ± {f['c se']:.1f}, χ² = {f['chi2']:.1f} at "
        f"{f['degrees']} degrees of freedom"
        for f in found["cases"]
    )
    text = (
        "Proposals, times of moves and numbers of sweeps adapted as they are by default. If the bias of the log "
        f"evidence is c / N, the entries of the column N × bias agree. The fits: {fits}. The last column is the mean "
        "of the evidence itself over the truth; 1 is unbiased.\n"
    )
    heads = ["posterior", "N", "runs", "bias of log evidence, nats", "N × bias", "sd", "mean of evidence / truth"]
    rows = [
        [
            f["case"],
            f"{r['n']}",
            f"{r['runs']}",
            f"{r['bias']:+.4f} ± {r['bias se']:.4f}",
            f"{r['n'] * r['bias']:+.1f} ± {r['n'] * r['bias se']:.1f}",
            f"{r['sd']:.3f}",
            f"{r['evidence ratio']:.4f} ± {r['evidence se']:.4f}",
        ]
        for f in found["cases"]
        for r in f["rows"]
    ]
    return "## Bias of the evidence\n\n" + text + "\n" + table(heads, rows)


def of_calibration(found: dict[str, Any]) -> str:
    text = (
        "Simulation-based calibration (Talts et al. 2018; Modrák et al. 2023): hyperparameters from the prior and data "
        "from the model, many times; the rank of the truth in the online posterior, of each hyperparameter and of the "
        "log-likelihood (of the last state and regime where that is estimated), after some numbers of observations. "
        "p-values of Kolmogorov-Smirnov and chi-square tests of uniformity; the smallest of k is to be judged by "
        "0.01 / k.\n"
    )
    rows = []
    for r in found["rows"]:
        limit, times = 0.01 / r["of"], ", ".join(map(str, r["times"]))
        told = f"{r['smallest']:.3g}", f"{limit:.2g}", "yes" if r["smallest"] > limit else "**no**"
        rows.append([r["what"], r["model"], f"{r['count']}", times, *told])
    heads = ["engine", "model", "times over", "observations", "smallest p", "limit", "calibrated"]
    return "## Calibration\n\n" + text + "\n" + table(heads, rows)


def of_mutations(found: dict[str, Any]) -> str:
    text = (
        "Statistical bugs planted on purpose, each in a copy of the package, and the test that has to notice: it "
        "passes without the bug and fails by an assertion with it.\n"
    )
    rows = [
        [
            str(r["number"]),
            r["bug"],
            f"`{r['file']}`",
            f"`{r['test'].removeprefix('tests/')}`",
            "yes" if r["caught"] else "**no**",
        ]
        for r in found["mutations"]
    ]
    command = f"\n*`python -m benchmarks mutations`, {found['about']['date'][:10]}.*\n"
    return "## Planted bugs\n\n" + text + "\n" + table(["", "bug", "in", "test", "caught"], rows) + command


def tabled(section: Callable[[dict[str, Any]], tuple[str, list[str], list[list[str]]]]) -> Callable[..., str]:
    """Text and table as one."""

    def write(found: dict[str, Any]) -> str:
        text, heads, rows = section(found)
        return f"{text}\n{table(heads, rows)}"

    return write


def of_nuts(found: dict[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    from benchmarks.nuts import of_nuts as section

    return section(found)


SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "posteriors": of_posteriors,
    "nuts": tabled(of_nuts),
    "likelihoods": tabled(unbiased.of_likelihoods),
    "frozen": tabled(unbiased.of_frozen),
    "evidence": of_evidence,
    "calibration": of_calibration,
}


def page() -> None:
    """docs/correctness.md from what was measured."""
    parts = [
        "# Correctness\n\nMade by `python -m benchmarks correctness` from what it measured; no figure is typed in by "
        "hand. What the tests hold on every change is in `tests/`; here are the figures behind it, at larger sizes.\n"
    ]
    for name, write in SECTIONS.items():
        path = RESULTS / f"correctness-{name}.json"
        if path.exists():
            found = json.loads(path.read_text())
            parts.append(write(found["found"]) + "\n" + measured(name, found["about"]))
    if (RESULTS / "mutations.json").exists():
        parts.append(of_mutations(json.loads((RESULTS / "mutations.json").read_text())))
    (ROOT / "docs" / "correctness.md").write_text("\n".join(parts))


def main(chosen: list[str], quick: bool) -> None:
    RESULTS.mkdir(exist_ok=True)
    for name in chosen or list(PARTS):
        if name == "page":
            continue
        told, start = about(quick), time.perf_counter()
        found = PARTS[name](quick)
        told["seconds"] = time.perf_counter() - start
        path = RESULTS / f"correctness-{name}.json"
        path.write_text(json.dumps({"about": told, "found": found}, indent=1) + "\n")
        print(f"{name}: {told['seconds']:.0f} s", flush=True)
    page()
