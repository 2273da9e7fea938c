# Newcomers need `make serve` and `make test`. Both install what they need, once.
# `make serve ENGINE=cpu` or `ENGINE=cuda` overrides the choice; PYTHON=... names the interpreter for the environment.

VENV   ?= .venv
# For tools that need other versions than the service does.
REDTEAM ?= .venv-redteam
ENGINE ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo cuda || echo cpu)
BIN    := $(VENV)/bin

# glibc's default is an arena for each thread: resident memory then takes long to settle (docs/operations.md).
export MALLOC_ARENA_MAX ?= 2
# pip compiles nothing (.ci/install), so the first import of a module has to keep what it compiles.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help lock upgrade redteam sbom serve test test-all all-tests bench soak fuzz results results-quick votes screenshots lint format clean

help:  ## Show the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(VENV)/.$(ENGINE)  ## Install, then start the service on the bundled demo model.
	@$(BIN)/smoothgate serve

test: $(VENV)/.$(ENGINE)-dev  ## Install, then run lint, types, the import contract and the tests but for the long ones.
	@$(MAKE) --no-print-directory lint
	@$(BIN)/python -m pytest

test-all: $(VENV)/.$(ENGINE)-dev $(REDTEAM)/.installed  ## Run what `make test` runs, the long tests, the fuzzer and the soak: before a release.
	@$(MAKE) --no-print-directory --keep-going lint all-tests fuzz soak

all-tests: $(VENV)/.$(ENGINE)-dev $(REDTEAM)/.installed
	@$(BIN)/python -m pytest -m ''

redteam: $(VENV)/.$(ENGINE)-dev $(REDTEAM)/.installed  ## Attack the running service with garak, PyRIT, lmms-eval, ART and AutoAttack.
	@$(BIN)/python -m pytest -n0 -m '' tests/redteam tests/lab/evaluation/test_other_tools.py

bench: $(VENV)/.$(ENGINE)-dev  ## Measure the sampler and the service against simpler ones.
	@mkdir -p runs
	@$(BIN)/smoothgate bench sampler --plot runs/growth.svg
	@$(BIN)/smoothgate bench serving

soak: $(VENV)/.$(ENGINE)-dev  ## Load a service of free canvas sizes for 15 minutes: nothing is lost, nothing grows.
	@mkdir -p runs
	@$(BIN)/python -m tests.soak --json runs/soak.json

fuzz: $(VENV)/.$(ENGINE)-dev  ## Send 20,000 mutated requests, check every answer: some 15 minutes.
	@mkdir -p runs
	@$(BIN)/python -m tests.fuzz --json runs/fuzz.json

results: $(VENV)/.$(ENGINE)-dev  ## Attack every defence in docs/plans (hours; resumes).
	@test -e runs/fare/psm/psm.json || $(BIN)/smoothgate demo harden fare --tower docs/results/fare.safetensors \
		--psm docs/results/untuned --output runs/fare
	@test -e runs/tecoa/psm/psm.json || $(BIN)/smoothgate demo harden tecoa --tower docs/results/tecoa.safetensors \
		--psm docs/results/untuned --output runs/tecoa
	@$(BIN)/smoothgate evaluate docs/plans/results.toml --output runs/results --json runs/results.json
	@$(BIN)/smoothgate evaluate docs/plans/results-square.toml --output runs/results-square
	@$(BIN)/smoothgate evaluate docs/plans/results-sigma-075.toml --output runs/results-sigma-075
	@$(BIN)/smoothgate evaluate docs/plans/results-sigma-025.toml --output runs/results-sigma-025
	@$(BIN)/smoothgate evaluate docs/plans/results-autoattack.toml --output runs/results-autoattack
	@$(BIN)/smoothgate evaluate docs/plans/results-art.toml --output runs/results-art
	@$(BIN)/smoothgate demo resubmit docs/plans/results-resubmitted.toml --output runs/results

results-quick: $(VENV)/.$(ENGINE)-dev  ## The same on a small scale, in minutes.
	@$(BIN)/smoothgate evaluate docs/plans/results-quick.toml --output runs/results-quick

votes: $(VENV)/.$(ENGINE)-dev  ## Measure certified answers, and try to refute them (hours; resumes).
	@$(BIN)/smoothgate demo votes --output runs/votes --json runs/votes.json
	@$(BIN)/smoothgate demo over-refusal --output runs/votes --json runs/over-refusal.json
	@$(BIN)/smoothgate demo attack-votes --output runs/votes --json runs/attacked-votes.json

screenshots: $(VENV)/.$(ENGINE)-dev  ## Take the README's pictures of the playground again (needs chromium).
	@$(BIN)/python -m tests.playground.screenshots docs/img

lint: $(VENV)/.$(ENGINE)-dev  ## Run ruff, mypy and import-linter.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.$(ENGINE)-dev  ## Rewrite the sources as ruff wants them.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock: $(VENV)/.cpu-dev  ## Write the versions that the images install: those of this environment.
	@$(BIN)/python docker/lock.py

upgrade: $(VENV)/.cpu-dev  ## Install the newest versions that are allowed, and write them down: then run the tests.
	@UPGRADE=1 .ci/install $(VENV) cpu dev
	@$(MAKE) --no-print-directory lock

sbom: $(VENV)/.cpu-dev  ## List what the images install, as CycloneDX, into runs/.
	@.ci/sbom $(VENV) runs

clean:  ## Remove the environment and all caches.
	rm -rf $(VENV) $(REDTEAM) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# Stamps: nothing is installed while they are newer than what they depend on.
$(VENV)/.$(ENGINE): pyproject.toml $(wildcard .ci/* docker/requirements.*.txt)
	@.ci/install $(VENV) $(ENGINE)
	@touch $@

$(VENV)/.$(ENGINE)-dev: pyproject.toml $(wildcard .ci/* docker/requirements.*.txt)
	@.ci/install $(VENV) $(ENGINE) dev
	@touch $(VENV)/.$(ENGINE) $@

$(REDTEAM)/.installed: tests/redteam/requirements.txt .ci/redteam | $(VENV)/.$(ENGINE)-dev
	@.ci/redteam $(VENV) $(REDTEAM)
	@touch $@
