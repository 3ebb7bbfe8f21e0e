"""The harness of the benchmarks: what it lists, what it writes, and that planted bugs still find their place."""

import ast
import json
import sys

import numpy as np
import pytest
from benchmarks import __main__ as harness
from benchmarks import environments, mutations, picture, records, scaling, tables

ROOT = records.ROOT


def test_every_benchmark_says_what_it_compares():
    for name, line in harness.names().items():
        assert line.strip(), name
        tree = ast.parse((ROOT / "benchmarks" / f"{name}.py").read_text())
        assert len(ast.get_docstring(tree) or "") > 150, name


def test_a_ratio_is_how_many_times_better_ours_is():
    time = records.Record(what="a", unit="ms", ours=2.0, rival="b", theirs=6.0)
    assert time.ratio == 3.0
    speed = records.Record(what="a", unit="GB/s", ours=2.0, rival="b", theirs=6.0, more_is_better=True)
    assert speed.ratio == pytest.approx(1 / 3)
    assert records.Record(what="a", unit="ms", ours=2.0, rival="b", note="not installed").ratio is None


def test_a_section_has_what_was_found_and_marks_where_we_lose():
    rows = [
        {"what": "fast", "unit": "ms", "ours": 1.0, "rival": "x", "theirs": 12.34, "first": 2.0, "interval": [9, 15]},
        {"what": "slow | wide", "unit": "ms", "ours": 4.0, "rival": "y", "theirs": 2.0},
        {"what": "absent", "unit": "ms", "ours": 4.0, "rival": "z", "note": "no wheel"},
    ]
    text = tables.section("kernels", {"about": records.about(True) | {"seconds": 3.0}, "rows": rows})
    assert text.startswith("## The Kalman step")
    assert "| fast, ms | 1 | x | 12.3 | 12.3 (9 to 15) | 2 / – |" in text
    assert "| slow \\| wide, ms | 4 | y | 2 | **0.5** |  |" in text
    assert "| absent, ms | 4 | z | no wheel |" in text
    assert "quick sizes" in text


def test_the_picture_leaves_out_what_is_no_rival():
    base = {"what": "a", "unit": "ms", "ours": 1.0}
    rivals = ("x, N = 200, M = 100", "Immediate (ours as well)", "in memory", "y", "z")
    rows = [{**base, "rival": rival, "theirs": None if rival == "z" else 2.0} for rival in rivals]
    assert picture.ratios({"kernels": {"rows": rows}}) == {"kernels: x": [2.0], "kernels: y": [2.0]}


def test_costs_are_found_again_and_the_page_of_scaling_says_what_is_short(tmp_path, monkeypatch):
    sizes = [*scaling.SIZES, scaling.LAST[True]]
    right = {kind: np.array([1e-3, 1e-5, 1e-8, 1e-8]) * there for kind, there in scaling.TERMS.items()}

    def of_size(series, n):
        costs = {kind: float(np.dot(scaling.terms(series, n), a)) for kind, a in right.items()}
        return {"series": series, "n": n, **costs, "bytes": 100.0, "history_bytes": 17.0}

    monkeypatch.setattr(scaling, "of_size", of_size)
    monkeypatch.setattr(scaling, "of_driver", lambda series: {"seconds": 1e-6, "bytes": 90.0})
    monkeypatch.setattr(scaling, "of_moves", lambda: {"growth": 1.5, "sweeps": 4.0, "moves": 7})
    monkeypatch.setattr(scaling, "PATH", tmp_path / "scaling.json")
    monkeypatch.setattr(scaling, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    scaling.main([], quick=True)
    found = json.loads(scaling.PATH.read_text())["found"]
    for kind, a in right.items():
        np.testing.assert_allclose(found["fits"][kind], a, rtol=1e-6, atol=1e-15)
        np.testing.assert_allclose(found["gaps"][kind], np.zeros(len(sizes)), atol=1e-6)
    text = (tmp_path / "docs" / "scaling.md").read_text()
    assert "| 1e+07 | 2.52 min |" in text  # 1e-3 + 1e7 * 1e-5 + 256e7 * 2e-8
    assert "memory: 8 machines of 64 GB" in text


def test_results_have_the_fields_of_a_record():
    for path in records.RESULTS.glob("*.json"):
        found = json.loads(path.read_text())
        for row in found.get("rows", []):
            records.Record(**row)


@pytest.mark.parametrize("mutation", mutations.MUTATIONS, ids=range(1, len(mutations.MUTATIONS) + 1))
def test_planted_bugs_find_their_place_and_their_test(mutation):
    source = (ROOT / "src" / "smcssm" / mutation.file).read_text()
    assert source.count(mutation.old) == 1
    path, _, name = mutation.test.partition("::")
    tree = ast.parse((ROOT / path).read_text())
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert name.partition("[")[0] in functions
    marks = [ast.unparse(d) for d in functions[name.partition("[")[0]].decorator_list]
    assert "pytest.mark.slow" not in marks


def test_a_rival_that_is_not_listed_is_named():
    with pytest.raises(environments.RivalError, match="there is no benchmarks/rivals/nobody"):
        environments.python("nobody")


def test_a_rival_that_fails_says_why():
    with pytest.raises(environments.RivalError, match="No module named"):
        environments.ask_of(sys.executable, "nothing", limit=60)
