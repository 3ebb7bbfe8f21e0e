"""Every code block of the README and of the pages runs, page by page, in small sizes.

A block of ```python runs unless a comment before it gives a reason why not, ``<!-- not run: it needs a GPU -->``, or
its first line has the word ``notest``. ``<!-- given: ... -->`` is code that a reader has in mind: it runs where it
stands. Pages that take minutes, ``<!-- slow -->``, run with the slow tests. Numbers of particles are cut to 64, of
draws to 50.

So do the commands: those of ``smcssm`` as they are written, on a small file with the columns that they name; of the
others it is looked up whether what they name is there.
"""

import os
import re
import tomllib
from pathlib import Path

import matplotlib
import numpy as np
import pymc as pm
import pytest
from benchmarks.__main__ import names as benchmarks
from typer.testing import CliRunner

import smcssm as ss
from commands import commands, given, table
from smcssm import assemble
from smcssm.cli import app, session

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
@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto:UserWarning")  # so are 64 draws
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


# commands -------------------------------------------------------------------------------------------------------------

TYPED = [(p.stem, c) for p in [*PAGES, ROOT / "CONTRIBUTING.md"] for c in commands(p.read_text(encoding="utf-8"))]
OURS = {c.words[1:]: f"{page}:{c.line}" for page, c in TYPED if c.words[0] == "smcssm"}
STREAMS = {words: where for words, where in OURS.items() if len(words) > 2 and words[0] in ("stream", "watch")}
ENDLESS = {"--follow": ("--no-stay", "--port", "0")}
"""What would wait for ever, and what stands in its place: the page ends with the file."""


def typed(words, small=True):
    """Run a command of ours."""
    ended = [w for word in words for w in ENDLESS.get(word, (word,))]
    return CliRunner().invoke(app, [*ended, *(["--particles", "64"] if small else [])])


def compiled_already(model, prior, **options):
    """The engine of the pages, in the place of one of this model."""
    assert set(model.names) <= set(prior.names)
    with pm.Model() as scales:
        pm.HalfNormal("sigma_level", 50.0)
        pm.HalfNormal("sigma_obs", 150.0)
    prior = shared(scales, assemble.as_prior)
    return ss.Engine(ss.models.LocalLevel(1120.0, 300.0), prior, **options)


@pytest.mark.parametrize("words", STREAMS, ids=STREAMS.get)
@pytest.mark.parametrize("own_model", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_streams_run(words, own_model, tmp_path, monkeypatch):
    """To their end. In the quick tests the model, once it is built, steps back for one that was compiled already."""
    monkeypatch.chdir(tmp_path)
    Path(words[1]).write_text(table(words), encoding="utf-8")
    if not own_model:
        monkeypatch.setattr(session, "Engine", compiled_already)
    result = typed(words)
    assert result.exit_code == 0, result.output
    rows = 40 if given(words, "--time") else 38
    assert f"{rows} observations ({rows - 37} missing), 0 lines rejected" in result.stderr
    for ahead in given(words, "--ahead"):
        assert f"{ahead} ahead" in result.stderr or given(words, "--time")
    for path in (*given(words, "--journal"), *given(words, "--forecast")):
        assert os.path.exists(path)
    if given(words, "--journal"):
        sound = CliRunner().invoke(app, ["inspect", *given(words, "--journal")])
        assert sound.exit_code == 0, sound.output


def test_commands_are_there():
    """Of ours the others, by their help at least: those that only name a command, or a file of another example."""
    assert len(STREAMS) >= 4
    for words, where in OURS.items():
        if words not in STREAMS:
            command = words if words in (("models",), ("demo",)) else [*words[:1], "--help"]
            result = CliRunner().invoke(app, [*command, *(["--help"] if words == ("demo",) else [])])
            assert result.exit_code == 0, where
            assert all(word in result.stdout for word in words if word.startswith("--")), where


def test_what_other_commands_name_is_there():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for page, command in TYPED:
        where, (tool, *rest) = f"{page}:{command.line}", command.words
        if tool == "make":
            assert {word for word in rest if "=" not in word} <= {*targets}, where
        elif tool == "pip":
            wanted = re.search(r"\[(.*)\]", rest[-1])
            assert wanted is None or {*wanted[1].split(",")} <= {*extras}, where
        elif tool == "python":
            _a_program_with_these_options(rest, where)


def _a_program_with_these_options(words, where):
    if words[:2] == ["-m", "pytest"]:
        assert all((ROOT / word).exists() for word in words if word.startswith("tests/")), where
        return
    name = words[1].replace(".", "/") if words[0] == "-m" else words[0].removesuffix(".py")
    path = ROOT / f"{name}.py" if (ROOT / f"{name}.py").exists() else ROOT / name / "__main__.py"
    source = path.read_text(encoding="utf-8")
    assert all(f'"{word}"' in source for word in words if word.startswith("--")), where
    if words[:2] == ["-m", "benchmarks"]:
        assert f'"{words[2]}"' in source, where
        assert words[2] != "run" or {word for word in words[3:] if word[0] not in "-["} <= {*benchmarks()}, where
