# make example:   install, run the whole chain on examples/aspirin, say where the results are
# make finetune:  fine-tune a small model naively and with replay (examples/finetune), show both
# make snakemake: the chain as a workflow (examples/snakemake; installs snakemake)
# make test:      run the tests (the first time it installs what they need)
# make lint:      check formatting, style and import directions
# make bench:     compare speed with mace-torch (installs torch and mace-torch beside; half an hour)
# make clean:     remove the environment and what the examples made

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(wildcard pyproject.toml */pyproject.toml tools/*/pyproject.toml)
EDITABLE := -e ./schemas -e "./shared[model]" $(foreach tool,preprocess plan_batches train predict convert export_lammps plot,-e ./tools/$(tool))

.PHONY: example finetune snakemake test lint bench clean
export JAX_PLATFORMS ?= cpu
WITH_TOOLS = PATH="$(CURDIR)/$(BIN):$$PATH"

example: $(BIN)/.installed
	$(WITH_TOOLS) $(MAKE) --no-print-directory -f examples/chain.mk

finetune: $(BIN)/.installed
	$(WITH_TOOLS) $(MAKE) --no-print-directory -f examples/finetune/Makefile

snakemake: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet "snakemake>=9,<10"
	$(WITH_TOOLS) snakemake --snakefile examples/snakemake/Snakefile --profile examples/snakemake/profiles/local

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
