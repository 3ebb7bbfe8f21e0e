"""What holds for every test: checked shapes and types, no silent rank promotion, global flags unchanged."""

import os
from pathlib import Path

# Compiling dominates the run time: keep compiled programs between runs. Before JAX is imported, and in the
# environment, so that tests which start another process share them.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import hypothesis
import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_rank_promotion", "raise")
install_import_hook("smcssm", "beartype.beartype")  # before the first import of smcssm

# Examples are the same in every run; the first one compiles, so no deadline.
hypothesis.settings.register_profile("smcssm", deadline=None, derandomize=True)
hypothesis.settings.load_profile("smcssm")


@pytest.fixture(autouse=True)
def _global_x64_unchanged():
    """Precision is set locally, never by the global flag: a test that leaves it changed fails."""
    before = jax.config.jax_enable_x64
    yield
    after = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", before)
    assert after == before, f"jax_enable_x64 was {before} before this test and {after} after it"


@pytest.fixture(autouse=True, scope="module")
def _programs_are_let_go():
    """Compiled programs of a file go when it is done: hundreds of them in one process have crashed the compiler."""
    yield
    jax.clear_caches()


@pytest.fixture
def x64(_global_x64_unchanged):
    """float64 for the length of a test; a whole module: `pytestmark = pytest.mark.usefixtures("x64")`."""
    with jax.enable_x64(True):
        yield
