# Everything a newcomer or CI needs. Each target installs what it uses into .venv, and again when pyproject.toml or
# constraints.txt change. Needs make, and Python 3.11 or newer with pip.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt

# Three levels, each a stamp file: dsim alone (no torch), the development tools, torch for real_runner and its tests.
READY       := $(VENV)/.ready
READY_DEV   := $(VENV)/.ready-dev
READY_TORCH := $(VENV)/.ready-torch

SCENARIO ?= scenarios/v4-flash-pareto.yaml
OUT      ?= reports/$(basename $(notdir $(SCENARIO)))
PYTEST   ?= -n auto --maxprocesses 4 --dist worksteal
DEVICE   ?=
SMALL    ?=
MINUTES  ?= 5
SEED     ?= 0
START    ?= 0

export OMP_NUM_THREADS ?= 1
# Of what pip installs, Python compiles and keeps what it imports; compiling all of it takes longer than installing it.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test fuzz check style types imports format bench profiles validation gpu engines clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' Makefile

demo: $(READY) ## set up, simulate SCENARIO and write the report to OUT
	$(BIN)/dsim run $(SCENARIO) --out $(OUT)

test: $(READY_DEV) $(READY_TORCH) ## set up, run all tests (flags for pytest: PYTEST="-n 0 -k replay")
	$(BIN)/python -m pytest $(PYTEST)

fuzz: $(READY_DEV) $(READY_TORCH) ## read mutated files for MINUTES (another SEED, from input START; see CONTRIBUTING.md)
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES) --seed $(SEED) --start $(START)

check: style types imports ## check style, types and imports; needs no torch

style: $(READY_DEV) ## check rules and format with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY_DEV) ## check types with mypy
	$(BIN)/mypy

imports: $(READY_DEV) ## check the direction of imports with import-linter
	$(BIN)/lint-imports

format: $(READY_DEV) ## format code and imports with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY_DEV) $(READY_TORCH) ## time the simulator and real_runner on this machine
	$(BIN)/python benchmarks/run.py

profiles: $(READY) ## rebuild the fitted profiles from the published numbers
	$(BIN)/python profiles/fit_deepseek_v4.py
	$(BIN)/python profiles/make_published.py
	$(BIN)/python profiles/make_acceptance.py

validation: $(READY_DEV) ## predict a tenth of the real runs anew, write docs/validation.md, docs/board.md and the README's tables from the results that are kept
	-$(BIN)/dsim validate --silicon --tenth --force --out reports/silicon-tenth
	$(BIN)/python -m simulator.report.validation.page
	$(BIN)/python -m simulator.report.board.page

# A GPU image brings a torch built for its driver, and often has no network: its Python is used if it has every package needed, or if it alone can use
# the GPU; then gpu.py names what it lacks.
ifneq ($(filter gpu,$(MAKECMDGOALS)),)
GPU_PYTHON := $(shell $(PYTHON) benchmarks/gpu_needs.py --which $(VENV) 2>/dev/null || echo $(BIN)/python)
endif
given = $(filter command line environment,$(origin $(1)))

gpu: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),$(READY_DEV) $(READY_TORCH)) ## measure with real_runner on a GPU (DEVICE=cuda:1, MINUTES=9, OUT=DIR, SMALL=1 for a quick look)
	PYTHONPATH=.$(if $(PYTHONPATH),:$(PYTHONPATH)) $(GPU_PYTHON) -m benchmarks.gpu $(if $(DEVICE),--device $(DEVICE)) $(if $(SMALL),--small) \
	$(if $(call given,MINUTES),--minutes $(MINUTES)) $(if $(call given,OUT),--out $(OUT))

engines: $(READY_DEV) $(READY_TORCH) ## predict, then measure engines of others on this machine, for MINUTES (90); run it again to resume (docs/engines.md)
	$(BIN)/python -m benchmarks.engines.run all --minutes $(if $(call given,MINUTES),$(MINUTES),90)

clean: ## remove .venv, caches and builds; reports stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Where the system's Python cannot make a complete venv (Debian without python3-venv), its pip fills a bare one.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "dsim needs Python 3.11 or newer, but $(PYTHON) is older: use make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { $(PYTHON) -m venv --clear --without-pip $(VENV) && \
	$(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }

$(READY): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable .
	@touch $@

$(READY_DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[dev,fast,ray,estimate]'
	@touch $(READY) $@

$(READY_TORCH): pyproject.toml constraints.txt | $(READY)
	$(PIP) --editable '.[profile,serving]'
	@touch $@
