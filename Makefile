# `make demo` and `make test` set everything up on a fresh machine: Python 3.11 or newer, make and a package index.
# LOCK=locks/cuda12.lock takes the libraries for drivers that stop at CUDA 12; the choice is remembered in .venv.
# WHEELHOUSE=dir installs from wheels alone (made by `make wheelhouse` on a machine with a network).

PYTHON ?= python3
LOCK ?= $(shell cat .venv/lock 2>/dev/null || echo locks/cuda13.lock)
WHEELHOUSE ?=
VENV := .venv
BIN := $(VENV)/bin
UV := .uv/bin/uv
UV_VERSION := 0.13.9
READY := $(VENV)/ready-$(notdir $(basename $(LOCK)))
# A wheelhouse holds wheels built on the spot (deepspeed has none of its own), which no hash of the index can match.
SOURCE := $(if $(WHEELHOUSE),--no-index --find-links $(WHEELHOUSE),)
HASHES := $(if $(WHEELHOUSE),--no-verify-hashes,--require-hashes)

.PHONY: demo test lint soak setup wheelhouse lock peers clean

demo: $(READY)
	$(BIN)/cxr demo

test: $(READY)
	$(BIN)/python -m pytest -m "not soak"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

soak: $(READY)
	$(BIN)/python -m pytest -m soak

setup: $(READY)

$(UV):
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments: install python3-venv"; exit 1; }
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet $(SOURCE) uv==$(UV_VERSION)

# Bytecode is compiled once here: where PYTHONDONTWRITEBYTECODE is set, every Ray worker would compile torch anew.
$(READY): $(LOCK) setup.cfg pyproject.toml $(UV)
	test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) $(VENV)
	rm -f $(VENV)/ready-*
	$(UV) pip sync --quiet --python $(BIN)/python $(SOURCE) --compile-bytecode $(HASHES) $(LOCK)
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	echo $(LOCK) > $(VENV)/lock
	touch $@

wheelhouse: $(UV)
	.uv/bin/python -m pip wheel --quiet --no-deps --require-hashes -w $(or $(OUT),wheelhouse) -r $(LOCK)
	.uv/bin/python -m pip wheel --quiet --no-deps -w $(or $(OUT),wheelhouse) uv==$(UV_VERSION)

COMPILE := pip compile --quiet --all-extras --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock"

lock: $(UV)
	$(UV) $(COMPILE) setup.cfg --override locks/overrides-cuda13.txt -o locks/cuda13.lock
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" benchmarks/peers.in -o benchmarks/peers.txt
	$(UV) $(COMPILE) setup.cfg locks/extra-cuda12.txt --override locks/overrides-cuda12.txt -o locks/cuda12.lock

# Loaders of others whose libraries conflict with ours, for `cxr bench loader`: an environment of their own.
PEERS := .venv-peers

peers: $(UV)
	test -x $(PEERS)/bin/python || $(UV) venv --quiet --python $(PYTHON) $(PEERS)
	$(UV) pip sync --quiet --python $(PEERS)/bin/python --compile-bytecode --require-hashes benchmarks/peers.txt

clean:
	rm -rf $(VENV) $(PEERS) .uv build *.egg-info
