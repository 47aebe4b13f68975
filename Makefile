# Every target sets itself up on a fresh machine: it needs only make and Python 3.11+ with venv and pip.
PYTHON ?= python3
PYTEST_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

.PHONY: demo test lint docs bench dist clean
.NOTPARALLEL:
.DELETE_ON_ERROR:
# The stamps are intermediate only by their form: keep them.
.PRECIOUS: $(VENV)/.installed-%

demo: $(VENV)/.installed-plot
	$(BIN)/python examples/plot_compare_with_sklearn.py

# Two processes, a file in one of them, those with long tests first: PYTEST_ARGS="-n 0" for one, as --pdb needs.
# Exit status 5 is that no test was selected: PYTEST_ARGS may leave none for the second run.
test: lint
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)
	TORCHSK_DEVICE=simulated $(BIN)/python -m pytest -q $(PYTEST_ARGS) -m device || [ $$? -eq 5 ]

lint: $(VENV)/.installed-test
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy --no-error-summary

docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -W -q --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: $(VENV)/.installed-bench
	@set -e; for script in $(wildcard benchmarks/*.py); do \
		echo "$$script"; $(BIN)/python $$script; \
	done

# The packages, and the wheel tried where there is no checkout, with the lowest versions it asks for.
dist: $(VENV)/.installed-dist
	rm -rf dist build
	$(BIN)/python -m build --outdir dist . >/dev/null
	$(BIN)/python -m twine check --strict dist/*
	mkdir build && $(BIN)/python tests/lowest.py >build/lowest.txt
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/python -m pip --disable-pip-version-check -qq install \
		-c constraints.txt -c build/lowest.txt dist/*.whl
	cd build && wheel/bin/python -P -W ignore ../tests/installed.py
	@ls -l dist

# What was built or cached; the virtual environment stays.
clean:
	rm -rf build dist docs/_build docs/auto_examples docs/generated docs/sg_execution_times.rst \
		.mypy_cache .pytest_cache .ruff_cache .hypothesis compare_with_sklearn.png
	find torchsk tests examples benchmarks docs -name __pycache__ -prune -exec rm -rf {} +

# One virtual environment; one stamp for each group of extras, renewed when the pins change.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; \
		sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.11")'
	@echo "Setting up $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# Every group holds "plot": after make test, make demo has nothing left to install.
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing torchsk[$*] into $(VENV)"
	@$(PIP) install -c constraints.txt -e '.[$*]'
	@touch $(VENV)/.installed-plot $@
