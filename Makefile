.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# momoko has no pyproject.toml; that old pips deprecate its way of being built is nothing to a reader.
PIP := $(BIN)/python -W ignore:DEPRECATION -m pip --disable-pip-version-check --quiet

.PHONY: help run test lint format setup setup-dev lock docs screenshots verify bench soak chaos conformance fuzz env-example clean

help:  ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | expand -t 14

run: setup  ## Serve on http://127.0.0.1:3001, with an embedded PostgreSQL
	@exec $(BIN)/python server.py

test: setup-dev  ## Run every test, on an embedded PostgreSQL of its own
	$(BIN)/python -m pytest -n auto

lint: setup-dev  ## ruff, mypy --strict, the layers, the scripts, the units, the Dockerfile
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/shellcheck deploy/install.sh deploy/trial/*.sh
	$(BIN)/hadolint Dockerfile
	@command -v systemd-analyze >/dev/null || echo "systemd-analyze is not there: the units are not checked"
	@! command -v systemd-analyze >/dev/null || $(BIN)/python -m deploy.check_units

format: setup-dev  ## Fix and format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

screenshots: setup-dev  ## Make the README's pictures anew, with the browser's tests
	SCREENSHOTS=docs/pictures $(BIN)/python -m pytest tests/test_console.py tests/test_dashboard.py -k "screenshots or month"

docs: setup  ## Write docs/openapi.json and docs/asyncapi.json from the types
	$(BIN)/python -m documents

verify: setup  ## Check a whole server and write the report (URL=… one that runs, with TOKEN= OTHER_TOKEN= or SECRET=; QUICK=1; REPORT=file)
	$(BIN)/python -m verify $(if $(URL),--url $(URL)) $(if $(QUICK),--quick) $(if $(REPORT),--report $(REPORT))

bench: setup-dev  ## Measure speed and memory (QUICK=1: a short run; GROWTH=n stored messages; CHART=1)
	$(BIN)/python -m bench $(if $(QUICK),--quick) $(if $(GROWTH),--growth $(GROWTH)) $(if $(CHART),--chart)

chaos: setup-dev  ## Ten minutes of faults, then check every promise (SECONDS=… SEED=… to change)
	$(BIN)/python -m chaos $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))

conformance: setup-dev  ## Try the WebSocket protocol itself (QUICK=1: without large messages)
	$(BIN)/python -m conformance $(if $(QUICK),--quick)

fuzz: setup-dev  ## Send 200,000 broken and hostile inputs to a real server (INPUTS=n, SEED=n)
	$(BIN)/python -m fuzz $(if $(INPUTS),--inputs $(INPUTS)) $(if $(SEED),--seed $(SEED))

soak: setup-dev  ## Hold 10,000 connections for ten minutes, with messages going
	$(BIN)/python -m bench.soak

env-example: setup  ## Write deploy/env.example from the settings and the README
	@$(BIN)/python -m deploy.make_env_example > deploy/env.example.new && mv deploy/env.example.new deploy/env.example

setup: $(VENV)/.runtime  ## Install what the server needs into .venv

setup-dev: $(VENV)/.dev  ## Install what tests and lint need too

lock: setup-dev  ## Pin the newest versions in the requirements files
	$(PIP) install uv
	$(BIN)/uv pip compile -q --upgrade --override overrides.txt --generate-hashes --no-emit-index-url --no-header \
		requirements.in -o requirements.lock
	$(BIN)/uv pip compile -q --upgrade --override overrides.txt --generate-hashes --no-emit-index-url --no-header \
		requirements-dev.in -o requirements-dev.lock
	@for name in requirements requirements-dev; do \
		{ echo "# The whole closure; momoko's own metadata is out of date, so install it with:"; \
		  echo "#   pip install --no-deps -r $$name.txt"; \
		  echo "# Made by: make lock"; cat $$name.lock; } > $$name.txt; rm $$name.lock; done

clean:  ## Remove the environment, caches and the development data
	rm -rf $(VENV) tests/.node .data .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache conformance/.autobahn conformance/.reports
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A half-made environment is never mistaken for a whole one: the mark comes last.
$(VENV)/.python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "Python 3.11 or newer is needed; $(PYTHON) is %d.%d. Try: make PYTHON=python3.11 run" % v[:2])'
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV) || { echo "No virtual environment could be made; on Debian: apt install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/.runtime: requirements.txt $(VENV)/.python
	@echo "Installing what the server needs into $(VENV) …"
	@$(PIP) install --no-deps --require-hashes -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.python
	@echo "Installing what tests and lint need into $(VENV) …"
	@$(PIP) install --no-deps --require-hashes -r requirements-dev.txt
	@touch $@ $(VENV)/.runtime
