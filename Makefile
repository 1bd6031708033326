# Every target sets up what it needs, once: a virtual environment in .venv with the versions of requirements.lock.
.DEFAULT_GOAL := help
.PHONY: help demo serve test test-cluster torture fuzz deploy-check dev lint format bench bench-quick psql clean lock

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/.installed

# Runs started from here, from the UI and from the command line share one history, under var/dagster.
export DAGSTER_HOME := $(CURDIR)

help: ## What can be made
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 14

demo: $(INSTALLED) ## From CSV files to next week's forecasts (LANDING_DIR=folder for your own)
	@$(BIN)/python -m forecast_assets.demo

serve: $(INSTALLED) ## The model service at http://127.0.0.1:8080/docs (after make demo)
	@$(BIN)/python -m serving

test: $(INSTALLED) ## All tests
	@$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

test-cluster: $(INSTALLED) ## TrainJob scenarios on the cluster of KUBECONFIG (docs/cluster.md)
	@TEST_CLUSTER_NAMESPACE="$${TEST_CLUSTER_NAMESPACE:-trainjob-test}" \
		$(BIN)/python -m pytest tests/test_kubernetes_scenarios.py -v -rs --timeout 900

torture: $(INSTALLED) ## Runs while something goes wrong: killed, full disk, damaged files (SEED=1 N=60)
	@$(BIN)/python -m tests.torture --seed $(or $(SEED),1) --n $(or $(N),60)

fuzz: $(INSTALLED) ## Mutated drops: refused by name, or taken with everything in place (SEED=1 N=2000)
	@$(BIN)/python -W ignore -m tests.fuzz --seed $(or $(SEED),1) --n $(or $(N),2000)

deploy-check: $(INSTALLED) ## Render deploy/ and check schemas and references (needs kubectl)
	@$(BIN)/python -m deploy.checks

dev: $(INSTALLED) ## The Dagster UI at http://localhost:3000
	@$(BIN)/dagster dev

lint: $(INSTALLED) ## Style, types and import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(INSTALLED) ## Let ruff arrange the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(INSTALLED) ## Measure everything: docs/benchmarks.md (NAMES='ingest online' for some)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[bench]'
	@$(BIN)/python -m benchmarks.report $(NAMES)

bench-quick: $(INSTALLED) ## The benchmarks' short forms: is anything slower than it was?
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[bench]'
	@$(BIN)/python -m benchmarks.report --quick

psql: $(INSTALLED) ## A prompt on the database
	@$(BIN)/python -m feature_repo.database

clean: ## Remove what runs have written: database, frames, models, history
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m feature_repo.embedded_postgres stop; fi
	@rm -rf var .tmp_dagster_home_*

lock: ## Resolve all extras afresh into requirements.lock
	@PYTHON="$(PYTHON)" sh .ci/lock

$(INSTALLED): pyproject.toml requirements.lock
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || \
		{ echo "Python 3.11 or 3.12 is needed, '$(PYTHON)' is another version: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@echo "Installing into .venv (once; it takes minutes)"
	@"$(PYTHON)" -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[ui,dev]'
	@touch $(INSTALLED)
