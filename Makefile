# `make demo` and `make test` set everything up on a fresh machine: Python 3.11 or newer, make and a package index.
# LOCK=locks/cuda12.lock takes the libraries for drivers that stop at CUDA 12.
# WHEELHOUSE=dir installs from wheels alone (made by `make wheelhouse` on a machine with a network).

PYTHON ?= python3
LOCK ?= locks/cuda13.lock
WHEELHOUSE ?=
VENV := .venv
BIN := $(VENV)/bin
UV := .uv/bin/uv
INDEX := $(if $(WHEELHOUSE),--no-index --find-links $(WHEELHOUSE),)

.PHONY: demo test lint soak setup wheelhouse lock clean

demo: $(VENV)/ready
	$(BIN)/cxr demo

test: $(VENV)/ready
	$(BIN)/python -m pytest -m "not soak"

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

soak: $(VENV)/ready
	$(BIN)/python -m pytest -m soak

setup: $(VENV)/ready

$(UV):
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments: install python3-venv"; exit 1; }
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet $(INDEX) uv

# Bytecode is compiled once here: where PYTHONDONTWRITEBYTECODE is set, every Ray worker would compile torch anew.
$(VENV)/ready: $(LOCK) setup.cfg pyproject.toml $(UV)
	test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) $(VENV)
	$(UV) pip install --quiet --python $(BIN)/python $(INDEX) --compile-bytecode --require-hashes -r $(LOCK)
	$(UV) pip install --quiet --python $(BIN)/python $(INDEX) --no-deps --no-build-isolation -e .
	touch $@

wheelhouse: $(VENV)/ready
	$(UV) pip install --quiet --python $(BIN)/python pip
	$(BIN)/python -m pip download --quiet --require-hashes --no-deps -d $(or $(OUT),wheelhouse) -r $(LOCK)
	$(BIN)/python -m pip download --quiet -d $(or $(OUT),wheelhouse) uv

COMPILE := pip compile --quiet --all-extras --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock"

lock: $(UV)
	$(UV) $(COMPILE) setup.cfg --override locks/overrides-cuda13.txt -o locks/cuda13.lock
	$(UV) $(COMPILE) setup.cfg locks/extra-cuda12.txt --override locks/overrides-cuda12.txt -o locks/cuda12.lock

clean:
	rm -rf $(VENV) .uv build *.egg-info
