"""The harness of the benchmarks: what it lists, what it writes, and that planted bugs still find their place."""

import ast
import json
import sys

import pytest
from benchmarks import __main__ as harness
from benchmarks import environments, mutations, records, tables

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
