# The two commands of a newcomer are `make serve` and `make test`; both install what they need, once.
# `make serve ENGINE=cpu` or `ENGINE=cuda` overrides the choice; PYTHON=... names the interpreter for the environment.

VENV   ?= .venv
ENGINE ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo cuda || echo cpu)
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve test bench lint format clean

help:  ## Show the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(VENV)/.$(ENGINE)  ## Install, then start the service on the bundled demo model.
	@$(BIN)/smoothgate serve

test: $(VENV)/.$(ENGINE)-dev  ## Install, then run lint, types, the import contract and all tests.
	@$(MAKE) --no-print-directory lint
	@$(BIN)/python -m pytest

bench: $(VENV)/.$(ENGINE)-dev  ## Measure the sampler and the service beside plainer ways.
	@mkdir -p runs
	@$(BIN)/smoothgate bench sampler --plot runs/growth.svg
	@$(BIN)/smoothgate bench serving

lint: $(VENV)/.$(ENGINE)-dev  ## Run ruff, mypy and import-linter.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.$(ENGINE)-dev  ## Rewrite the sources as ruff wants them.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## Remove the environment and all caches.
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# Stamps: while they are newer than what they depend on, nothing is installed.
$(VENV)/.$(ENGINE): pyproject.toml .ci/install
	@.ci/install $(VENV) $(ENGINE)
	@touch $@

$(VENV)/.$(ENGINE)-dev: pyproject.toml .ci/install
	@.ci/install $(VENV) $(ENGINE) dev
	@touch $(VENV)/.$(ENGINE) $@
