# make train        set up, train the model of configs/quickstart.yaml, write a report about it
# make test         set up, run the tests but the slow ones (minutes)
# make test-slow    install the extras, run the tests that take minutes each
# make prove        run the window's checks over their full grid
# make torture      kill, damage and fill disks: every case of tests/torture (a quarter of an hour)
# make torture-mutants  delete safety lines one by one: each must make a family of torture fail
# make lint         run ruff and mypy
# make bench        measure speed beside other libraries, into runs/bench/ (minutes)
# make schema       write configs/schema.json, with which editors check the YAML files
# make clean        remove .venv and the caches of tools; runs/ stays
#
# Everything is installed into .venv; a second call installs nothing.

PYTHON ?= python3
CONFIG ?= configs/quickstart.yaml
BIN := .venv/bin

# Without an NVIDIA driver, PyTorch's index of CPU wheels saves gigabytes of CUDA libraries. If that
# index cannot be reached (few retries, short time-out), pip uses the default index.
ifeq ($(shell command -v nvidia-smi 2>/dev/null)$(wildcard /proc/driver/nvidia/version),)
CPU_WHEELS := --extra-index-url https://download.pytorch.org/whl/cpu --retries 1 --timeout 15
endif

TORTURE := PYTHONPATH=tests $(BIN)/python -m torture

.PHONY: setup train test test-slow prove torture torture-mutants lint bench schema clean

setup: .venv/core

train: .venv/core
	$(BIN)/python train.py $(CONFIG) --resume
	$(BIN)/python -m experiments.report $(CONFIG) --measure

test: .venv/dev
	$(BIN)/python -m pytest -n auto

# If llama-cpp-python cannot be built, its tests are skipped, with the reason.
test-slow: .venv/interop
	-$(MAKE) .venv/llama-cpp
	$(BIN)/python -m pytest -m slow -n auto --timeout 1800 -rs

prove: .venv/dev
	$(BIN)/python -m pytest -m prove -n auto --timeout 1800

torture: .venv/dev
	$(TORTURE)

torture-mutants: .venv/dev
	$(TORTURE).mutants

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# With TEXT=FILE, learning is measured as well.
bench: .venv/bench
	mkdir -p runs/bench
	$(BIN)/python -m experiments.bench all $(if $(TEXT),data.path=$(TEXT)) \
		--json runs/bench/results.json --png runs/bench/results.png > runs/bench/results.md
	cat runs/bench/results.md

schema: .venv/core
	$(BIN)/python -m configs.help

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/core: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: Python 3.10 or newer is needed: make PYTHON=python3.11" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(CPU_WHEELS) torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

.venv/dev: .venv/core
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

# There is no wheel: it is built for any CPU of this kind, without its image models.
.venv/llama-cpp: .venv/dev
	CMAKE_ARGS="-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF" \
		$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[llama-cpp]"
	@touch $@

.venv/interop: .venv/dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
		--editable ".[export,eval,tensorboard,wandb,trackio,notebook]"
	@touch $@

.venv/bench: .venv/dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[plots]"
	@touch $@
