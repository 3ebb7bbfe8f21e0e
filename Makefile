# `make demo` and `make test` set up what they need in .venv (see scripts/setup.sh); nothing else is touched.
# Tools run as `python -m ...`: scripts in .venv/bin break when the folder's name has a space.

export PYTHON
py := .venv/bin/python
# One worker per core; whole files, so that a file's tests share their compiled programs.
workers := -n logical --maxprocesses 8 --dist loadfile

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install demo test test-slow lint types check bench-kernels notebook notebooks docs figures clean distclean bench

help:                           ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1	\2/p' Makefile | expand -t 18

.venv/.installed-%: pyproject.toml scripts/setup.sh
	@bash scripts/setup.sh $*

install: .venv/.installed-live  ## the smcssm command, in .venv
	@echo "installed: .venv/bin/smcssm --help"

demo: .venv/.installed-demo     ## a stream, learned online, in the terminal
	$(py) -m smcssm.cli demo

test: .venv/.installed-dev      ## all tests but the slow ones
	$(py) -m pytest $(workers) --durations=60 --durations-min=8

test-slow: .venv/.installed-dev ## the slow tests alone
	$(py) -m pytest $(workers) -m slow

lint: .venv/.installed-dev      ## ruff
	$(py) -m ruff check .

types: .venv/.installed-dev     ## pyright
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(py) -m pyright

check: lint types test          ## lint, types and test

bench: .venv/.installed-dev     ## run every benchmark at small sizes, and write docs/benchmarks.md
	-$(py) -m benchmarks run --quick
	$(py) -m benchmarks table

bench-kernels: .venv/.installed-dev ## time the innermost operations
	$(py) benchmarks/kernels.py

notebook: notebooks
notebooks: .venv/.installed-dev ## run every notebook from top to bottom
	bash scripts/notebooks.sh

docs: .venv/.installed-docs     ## build the documentation, strictly
	$(py) -m sphinx -W --keep-going -b html docs docs/_build/html

figures: .venv/.installed-dev   ## draw the pictures of README and docs anew
	$(py) scripts/figures.py

clean:                          ## remove what was built and cached
	rm -rf build dist docs/_build .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean                ## and the environment
	rm -rf .venv
