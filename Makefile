# The README's commands. `make demo` and `make test` set everything up themselves and are quick the second time.
PYTHON ?= $(shell for each in python3.11 python3.12 python3.13 python3.14 python3; do $$each -c "" 2>/dev/null && echo $$each && break; done)
BIN := .venv/bin

.PHONY: demo test fast lint types check toolchains wheel clean

demo: toolchains  ## convert the bundled model for rk3588 and for LiteRT
	$(BIN)/edgevit convert --target rk3588 --target tflite

test: toolchains  ## every test
	$(BIN)/edgevit toolchain install rknn --version 2.3.2
	$(BIN)/python -m pytest -n 2 --dist loadgroup

fast: .venv/ready  ## the tests that need no vendor toolchain: what to run on every save
	$(BIN)/python -m pytest -n 2 -m "not toolchain and not slow and not ssh and not adb and not browser"

lint: .venv/ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: .venv/ready
	$(BIN)/mypy

check: lint types fast

toolchains: .venv/ready  ## the vendors' converters, each in an environment of its own
	$(BIN)/edgevit toolchain install rknn litert

wheel: .venv/ready
	$(BIN)/python -m build

clean:  ## remove what these targets made in this folder; toolchains stay: edgevit toolchain remove
	rm -rf .venv build dist runs

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12), (3, 13), (3, 14)))' || \
		{ echo "edgevit needs Python 3.11 to 3.14; set PYTHON=/path/to/one"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "Python's venv module is missing: sudo apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -c constraints.txt -e ".[dev]"
	@touch $@
