"""The source tree has layers: imports point down only, in functions too, and never in a circle."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

LAYERS = [
    "core linalg errors arguments files forks",
    "gaussian resampling relabelling timeline history records journal replayed",
    "kalman priors.base",
    "models filters priors gp",
    "smc2 moves schedules",
    "snapshot readout trees container checkpoint bridges",
    "grid late stamps clock ingest record assemble not_a_number runtime sharding over_runs persist durable engine "
    "fleets fleet",
    "drawing plots watching comparison monitor metrics distributed interfaces",
    "__init__",  # the public face
    "demo cli __main__",
]
APART = {  # not to be imported from the first, although it lies no higher
    "filters": {"models"},
    "models": {"filters"},
    "smc2": {"models", "filters", "priors", "priors.base", "gp"},  # it sees them through the seams of core
}
LAYER = {unit: level for level, units in enumerate(LAYERS) for unit in units.split()}
SOURCE = Path(__file__).parents[1] / "src" / "smcssm"


def module_name(path):
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


def unit(module):
    """The row entry a module belongs to: the longest listed prefix of its name."""
    parts = module.split(".")
    prefixes = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next((prefix for prefix in prefixes if prefix in LAYER), None)


def imports(path):
    """The modules of this package that a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, inner = name.partition(".")
            if package == "smcssm":  # a name that is no module comes from the module before the dot
                yield inner if inner in MODULES else inner.rpartition(".")[0] or "__init__"


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    here = unit(module)
    assert here is not None, f"{module} is in no layer: give it a place in LAYERS"
    for target in imports(MODULES[module]):
        there = unit(target)
        assert there is not None, f"{module} imports {target}, which is in no layer"
        assert LAYER[there] <= LAYER[here], f"{module} imports {target}, which lies above it"
        assert there not in APART.get(here, ()), f"{module} may not import {target}"


def test_no_import_cycles():
    graph = {module: set(imports(path)) - {module} for module, path in MODULES.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, naming the circle


def test_importing_smcssm_loads_nothing_heavy():
    heavy = {"pymc", "pytensor", "numpyro", "ray", "matplotlib", "arviz", "blackjax", "scipy"}
    code = f"import sys, smcssm; smcssm.Engine; print(*sorted(sys.modules.keys() & {heavy}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.split() == []
