"""Sphinx configuration; `make docs` builds strictly and runs the notebooks, unless SMCSSM_DOCS_EXECUTE=0."""

import os
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

HERE = Path(__file__).parent

# The notebooks live beside the sources; Sphinx reads only what lies under docs/. They run small.
shutil.rmtree(HERE / "notebooks", ignore_errors=True)
(HERE / "notebooks").mkdir()
for notebook in sorted((HERE.parent / "notebooks").glob("*.ipynb")):
    shutil.copy(notebook, HERE / "notebooks")
os.environ.setdefault("SMCSSM_FAST", "1")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(HERE.parent / ".pytest_cache" / "jax"))
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

project = "smcssm"
author = copyright = "The smcssm developers"
release = version = metadata.version("smcssm")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
extensions += ["sphinx_copybutton", "sphinxcontrib.bibtex"]
bibtex_bibfiles = ["references.bib"]
exclude_patterns = ["_build", "jupyter_execute"]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 2
nb_execution_mode = "off" if os.environ.get("SMCSSM_DOCS_EXECUTE") == "0" else "cache"
nb_execution_timeout = 900
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_typehints = "none"  # shapes are strings, not names to be looked up
autodoc_member_order = "bysource"
autoclass_content = "class"
napoleon_google_docstring = True
napoleon_use_ivar = True

html_theme = "furo"
html_title = "smcssm"


class Post(SphinxDirective):
    """The front matter of a notebook in the format of pymc-examples, where ablog reads it; here a line."""

    has_content, final_argument_whitespace, required_arguments = True, True, 1
    option_spec: ClassVar = dict.fromkeys(("tags", "category", "author"), str)

    def run(self):
        told = [self.arguments[0], *(f"{name}: {value}" for name, value in self.options.items())]
        return [nodes.paragraph("", "", nodes.emphasis(text=" · ".join(told)))]


def plain_text(app, what, name, obj, options, lines):
    """Docstrings are plain text with ``code``: a star or a bar outside of that is itself, not markup."""
    lines[:] = [re.sub(r"(``.*?``)|([*|])", lambda m: m[1] or "\\" + m[2], line) for line in lines]


def setup(app):
    """The text before napoleon, which makes markup of sections."""
    app.add_directive("post", Post)
    app.connect("autodoc-process-docstring", plain_text, priority=400)
