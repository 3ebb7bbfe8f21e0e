"""Ten planted statistical bugs, and the test that must catch each.

Every bug is a change of source (old text, new text) in a temporary copy of the package. The named test has to pass with
the package as it is, and to fail by an assertion, not by a crash, with the bug.

    python -m benchmarks mutations [NUMBER ...]       writes benchmarks/results/mutations.json
"""

import datetime
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.records import RESULTS, ROOT


@dataclass(frozen=True)
class Mutation:
    """A bug: in ``file``, ``old`` becomes ``new``; ``test`` must notice."""

    bug: str
    file: str
    old: str
    new: str
    test: str


MUTATIONS = (
    Mutation(
        "sign of the proposal's correction in the acceptance ratio",
        "smc2/kernels/metropolis.py",
        "accept(smc, population, challengers, backward - forward, due, rung, sweep)",
        "accept(smc, population, challengers, forward - backward, due, rung, sweep)",
        "tests/test_smc2.py::test_the_posterior_is_exact_although_the_likelihood_is_estimated",
    ),
    Mutation(
        "a missing Jacobian: the prior of log sigma is that of sigma",
        "priors/base.py",
        "scale=self.scale) + math.log(2) + z)",
        "scale=self.scale) + math.log(2))",
        "tests/test_priors_base.py::test_density_is_normalised_and_is_that_of_scipy",
    ),
    Mutation(
        "the last observation counts twice in a move",
        "smc2/challengers.py",
        "settled, pending = jax.lax.fori_loop(0, -(-chunk.length // AT_ONCE), some, (c.log_lik, c.pending))",
        "settled, pending = jax.lax.fori_loop(0, -(-chunk.length // AT_ONCE), some, (c.log_lik, c.pending))\n"
        "    settled = settled + increments[chunk.length - 1]",
        "tests/test_engine.py::test_replay_equals_what_every_particle_carries[float64]",
    ),
    Mutation(
        "a move estimates the likelihood of where a particle is anew (no longer pseudo-marginal)",
        "smc2/kernels/metropolis.py",
        "return compiled(judge, smc, proposal.independent)(population, challengers, tuple(log_q), due, *counters)\n",
        "key, zero = fold_in(move_key(population, *counters), 2), jnp.zeros_like(population.log_lik)\n"
        "    started = particles(smc, key, population.z, blank_like(history.first), population.belief)\n"
        "    twins = Challengers(population.z, *started, zero, zero)\n"
        "    again = replay(smc, population, twins, history, since, *counters)\n"
        "    population = replace(population, log_lik=again.log_lik, belief=again.belief)\n"
        "    return compiled(judge, smc, proposal.independent)"
        "(population, challengers, tuple(log_q), due, *counters)\n",
        "tests/test_smc2.py::test_the_estimate_of_a_particle_that_stays_is_kept",
    ),
    Mutation(
        "every observation's inner particles are moved with the same key",
        "smc2/step.py",
        "    key = stream(population.key, Stream.FILTER, obs.index)\n    belief, info",
        "    key = stream(population.key, Stream.FILTER, 0 * obs.index)\n    belief, info",
        "tests/test_smc2.py::test_the_posterior_is_exact_although_the_likelihood_is_estimated",
    ),
    Mutation(
        "an accepted particle keeps the belief of the one that it replaces",
        "smc2/challengers.py",
        "        carried(challengers),\n",
        "        carried(replace(challengers, belief=population.belief)),\n",
        "tests/test_engine.py::test_replay_equals_what_every_particle_carries[float64]",
    ),
    Mutation(
        "a missing channel counts as an observation of zero",
        "kalman/sequential.py",
        "w = jnp.where(mask[i], y[i] - joint[i], 0.0) / s",
        "w = (y[i] - joint[i]) / s",
        "tests/test_kalman.py::test_equals_covariance_filter_and_joint_law[3-2]",
    ),
    Mutation(
        "F transposed",
        "kalman/sequential.py",
        "    before = predicted(belief, system.F, system.c,",
        "    before = predicted(belief, [list(column) for column in zip(*system.F)], system.c,",
        "tests/test_kalman.py::test_equals_covariance_filter_and_joint_law[3-2]",
    ),
    Mutation(
        "one-step predictives are averaged with the weights after the observation",
        "smc2/step.py",
        "w = before.normalise(at_full_exponent(population))",
        "w = part.normalise(population.log_weight + increment)",
        "tests/test_engine.py::test_predictives_follow_the_conjugate_student_t",
    ),
    Mutation(
        "moves do not see the oldest 256 observations of a longer history",
        "history.py",
        "for first in range(start, end, size):",
        "for first in range(start + size * (end - start > size), end, size):",
        "tests/test_moves.py::test_a_view_doubles",
    ),
)


def planted(mutation: Mutation, folder: Path) -> Path:
    """A copy of the package with the bug; the folder to import it from."""
    source = folder / "src"
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    path = source / "smcssm" / mutation.file
    text = path.read_text()
    if text.count(mutation.old) != 1:
        raise SystemExit(f"{mutation.file}: the text to change is there {text.count(mutation.old)} times, not once")
    path.write_text(text.replace(mutation.old, mutation.new))
    return source


@functools.cache
def tested(test: str, source: Path) -> tuple[bool, str, float]:
    """Whether a test passes with this package, the first lines of what it says if not, and seconds."""
    paths = [str(source), str(ROOT / "tests")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "", test]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode not in (0, 1):
        raise SystemExit(f"{test}: pytest stopped with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    said = [line[4:].strip() for line in done.stdout.splitlines() if re.match(r"E   +\S", line)]
    return done.returncode == 0, " ".join(said[:2]), seconds


def study(number: int) -> dict:
    """Plant one bug and see."""
    m = MUTATIONS[number - 1]
    sound, _, seconds = tested(m.test, ROOT / "src")
    with tempfile.TemporaryDirectory() as folder:
        passes, said, _ = tested(m.test, planted(m, Path(folder)))
    caught = sound and not passes and said.startswith(("assert", "AssertionError"))
    return {"number": number, **asdict(m), "caught": caught, "said": said, "sound": sound, "seconds": seconds}


def main(chosen: list[str], quick: bool) -> None:
    del quick
    path = RESULTS / "mutations.json"
    RESULTS.mkdir(exist_ok=True)
    found = {r["number"]: r for r in json.loads(path.read_text())["mutations"]} if path.exists() else {}
    for number in map(int, chosen) if chosen else range(1, len(MUTATIONS) + 1):
        r = found[number] = study(number)
        verdict = "caught" if r["caught"] else "NOT CAUGHT" if r["sound"] else "the test fails without it"
        print(f"{number:2d}  {verdict}: {r['bug']}\n    {r['test']}, {r['seconds']:.0f} s\n    {r['said']}", flush=True)
        date = datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")
        rows = [found[n] for n in sorted(found)]
        path.write_text(json.dumps({"about": {"date": date}, "mutations": rows}, indent=1) + "\n")
    if not all(r["caught"] for r in found.values()):
        sys.exit(1)
