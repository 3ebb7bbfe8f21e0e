"""Every code block of the README and of the pages runs, page by page, in small sizes.

A block of ```python runs unless a comment before it gives a reason why not, ``<!-- not run: it needs a GPU -->``, or
its first line has the word ``notest``. ``<!-- given: ... -->`` is code that a reader has in mind: it runs where it
stands. Pages that take minutes, ``<!-- slow -->``, run with the slow tests. Numbers of particles are cut to 64, of
draws to 50.
"""

import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from smcssm import assemble

matplotlib.use("agg")
ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PIECE = re.compile(
    r"^<!-- (?P<word>given|not run):(?P<what>.*?)-->|^```python(?P<info>[^\n]*)\n(?P<code>.*?)^```", re.M | re.S
)


def pieces(text):
    """Code to run, and the number of the line before it."""
    skip = False
    for found in PIECE.finditer(text):
        line = text[: found.start()].count("\n") + 1
        if found["word"] == "not run":
            skip = True
        elif found["word"] == "given":
            yield line - 1, found["what"]
        else:
            if not skip and "notest" not in found["info"]:
                yield line, found["code"]
            skip = False


def small(code):
    """The same with fewer particles and draws."""
    for what, most in (("n_particles", 64), ("draws", 50)):
        code = re.sub(rf"(?<={what}=)\d+", lambda number, most=most: str(min(int(number[0]), most)), code)
    return code


def marked(page):
    slow = "<!-- slow -->" in page.read_text(encoding="utf-8")
    return pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if slow else [])


KNOWN = {}


def shared(prior, convert):
    """Pages that write the same priors share them, and so their compiled programs."""
    described = str(getattr(prior, "str_repr", lambda: id(prior))())
    if described not in KNOWN:
        KNOWN[described] = convert(prior)
    return KNOWN[described]


def run(page, folder, monkeypatch):
    """The names that a page leaves behind."""
    monkeypatch.chdir(folder)
    convert = assemble.as_prior
    monkeypatch.setattr(assemble, "as_prior", lambda prior: shared(prior, convert))
    text, names = page.read_text(encoding="utf-8"), {"__name__": page.stem}
    for line, code in pieces(text):
        program = compile("\n" * line + small(code), str(page), "exec")
        exec(program, names)
    return names


@pytest.mark.filterwarnings("ignore::smcssm.errors.SmcssmWarning")  # 64 particles are few
@pytest.mark.parametrize("page", [marked(p) for p in PAGES if "```python" in p.read_text(encoding="utf-8")])
def test_the_blocks_run(page, tmp_path, monkeypatch, capsys):
    names = run(page, tmp_path, monkeypatch)
    if check := CHECKS.get(page.stem):
        check(names, capsys.readouterr().out)


def check_readme(names, out):
    assert names["engine"].t == 11 and "sigma_level" in out


def check_extend(names, out):
    """The four parts together, against the posterior on a grid."""
    engine, y, half_life = names["engine"], np.array(names["levels"]), 5.0
    sd, obs = np.meshgrid(*2 * [np.linspace(0.005, 4.0, 400)], indexing="ij")
    log_p, m, P, kept = -0.5 * (sd**2 + obs**2) + np.log(2 / np.pi), 0.0 * sd, sd**2, 0.5 ** (1 / half_life)
    for t, value in enumerate(y):
        m, P = (kept * m, kept**2 * P + sd**2 * (1 - kept**2)) if t else (m, P)
        S = P + obs**2
        log_p = log_p - 0.5 * (np.log(2 * np.pi * S) + (value - m) ** 2 / S)
        m, P = m + P / S * (value - m), P * obs**2 / S
    w = np.exp(log_p - log_p.max())
    log_evidence = np.log(w.sum()) + log_p.max() + 2 * np.log(sd[1, 0] - sd[0, 0])
    w, table = w / w.sum(), engine.summary()
    ess = engine.record["ess"].values[-1]
    for name, values in (("sigma_inflow", sd), ("sigma_obs", obs)):
        mean = np.sum(w * values)
        spread = np.sqrt(np.sum(w * (values - mean) ** 2))
        assert abs(table.loc[name, "mean"] - mean) < 5 * spread / np.sqrt(ess)
    assert abs(engine.log_evidence - log_evidence) < 1.0  # the sd of 64 particles is some 0.3
    moved = engine.record["time"].values[engine.record["moved"].values]
    assert len(moved) and not (moved % 10).any()


CHECKS = {"README": check_readme, "extend": check_extend}


def test_reasons_not_to_run_are_few():
    """A block that does not run may be wrong: no more than one in eight."""
    texts = [p.read_text(encoding="utf-8") for p in PAGES]
    blocks = sum(t.count("```python") for t in texts)
    left_out = sum(t.count("<!-- not run:") + t.count("```python notest") for t in texts)
    assert 8 * left_out <= blocks


def test_the_extractor_finds_what_it_should():
    text = (
        "```python\na = 1\n```\n<!-- given:\nb = 2\n-->\n```python notest\nc = 3\n```\n"
        "<!-- not run: no GPU -->\n\n```python\nd = 4\n```\n\n```bash\ne\n```\n"
        "```python\nf = ss.Engine(n_particles=9)\n```\n"
    )
    found = list(pieces(text))
    assert [code.strip() for _, code in found] == ["a = 1", "b = 2", "f = ss.Engine(n_particles=9)"]
    assert [text.splitlines()[line].strip() for line, _ in found][::2] == ["a = 1", "f = ss.Engine(n_particles=9)"]
    assert small("n_particles=1000, draws=200") == "n_particles=64, draws=50"
