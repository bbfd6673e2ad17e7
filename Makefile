# make example: install, run the whole chain on examples/aspirin, say where the results are
# make test:    run the tests (the first time it installs what they need)
# make bench:   compare speed with mace-torch (installs torch and mace-torch beside; half an hour)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(wildcard pyproject.toml */pyproject.toml tools/*/pyproject.toml)
EDITABLE := -e ./schemas -e "./shared[model]" $(foreach tool,preprocess plan_batches train predict convert export_lammps plot,-e ./tools/$(tool))

.PHONY: example test lint bench clean
export JAX_PLATFORMS ?= cpu

example: $(BIN)/.installed
	PATH="$(CURDIR)/$(BIN):$$PATH" $(MAKE) --no-print-directory -f examples/chain.mk

test: $(BIN)/.test-installed
	$(BIN)/python -m pytest -n auto --maxprocesses 8 -m "not slow"

lint: $(BIN)/.test-installed
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/lint-imports

bench: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet "nox>=2025.2"
	$(BIN)/nox --sessions bench

$(BIN)/.installed: $(SOURCES)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed, found " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	MACE_JAX_SIBLINGS= $(BIN)/python -m pip install --quiet $(EDITABLE)
	touch $@

$(BIN)/.test-installed: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet "e3nn-jax>=0.20.8" "hypothesis>=6.100" "import-linter>=2" "pytest>=8" "pytest-xdist>=3.6" "ruff>=0.9" "tensorboardX>=2.6.4"
	touch $@

clean:
	rm -rf $(VENV) example-run
