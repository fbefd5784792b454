.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory
SHELL := /bin/sh

BIN := .venv/bin
READY := .venv/setup.stamp
CHECKED := bench cli client kit services tests tools

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z0-9%<>-]*:.*## / { sub("%", "<service>", $$1); printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- the environment ---------------------------------------------------------------------------

.PHONY: setup
setup: $(READY) ## make .venv with every pinned dependency; at once when nothing changed

.venv/lock.stamp: requirements.lock tools/setup.sh
	@tools/setup.sh venv
	@touch $@

$(READY): .venv/lock.stamp pyproject.toml client/pyproject.toml
	@tools/setup.sh link
	@touch $@

.PHONY: lock
lock: $(READY) ## pin pyproject.toml anew into every lock; UPGRADE=1 takes newer versions
	@tools/setup.sh lock $(if $(UPGRADE),--upgrade)

.PHONY: clean
clean: ## remove the environment and everything the tools left
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
	find $(CHECKED) -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the contract ------------------------------------------------------------------------------

.PHONY: proto
proto: $(READY) ## generate client/tollkeeper/api and cli/schemas from protos/
	@$(BIN)/python -m tools.protos generate

.PHONY: proto-check
proto-check: $(READY) ## fail when the generated code is not what protos/ says
	@$(BIN)/python -m tools.protos check

.PHONY: buf
buf: $(READY) ## buf lint, format and breaking; AGAINST=<commit> names what to compare with
	@$(BIN)/python -m tools.protos lint

# --- the code ----------------------------------------------------------------------------------

.PHONY: fmt
fmt: $(READY) ## format Python and protos, and fix what ruff can fix
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .
	@cd protos && ../$(BIN)/buf format --write

.PHONY: lint
lint: $(READY) ## ruff, its format, and the spelling
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@git ls-files -z --cached --others --exclude-standard | xargs -0 $(BIN)/codespell

.PHONY: types
types: $(READY) ## mypy, strict
	@$(BIN)/mypy

.PHONY: imports
imports: $(READY) ## the layering contracts
	@$(BIN)/lint-imports --no-logo

ifneq ($(wildcard deploy/check.sh),)
DEPLOY_CHECK := deploy-check

.PHONY: deploy-check
deploy-check: $(READY) ## render the manifests and validate them against the Kubernetes schemas
	@deploy/check.sh
endif

# --- the tests ---------------------------------------------------------------------------------

.PHONY: test
test: $(READY) ## every test, on every core
	@$(BIN)/pytest --numprocesses auto --dist worksteal

.PHONY: test-unit test-properties test-contract test-integration test-e2e
test-unit: $(READY) ## the core by itself, in seconds
test-properties: $(READY) ## the laws, with generated input
test-contract: $(READY) ## the promises of the wire and of the house
test-integration: $(READY) ## stores and servers on real PostgreSQL and Redis
test-e2e: $(READY) ## five real servers and a steerable clock
test-unit test-properties test-contract test-integration test-e2e:
	@$(BIN)/pytest tests/$(@:test-%=%)

.PHONY: test-meter-laws
test-meter-laws: $(READY) ## usage against its model, in many more examples than CI draws
	@METER_LAWS_EXAMPLES=300 $(BIN)/pytest tests/properties/test_meter_usage_laws.py

.PHONY: chaos
chaos: $(READY) ## kill servers at random, in ROUNDS=20 seeded rounds; SEED=n repeats from one
	@TOLLKEEPER_CHAOS_ROUNDS=$(or $(ROUNDS),20) TOLLKEEPER_CHAOS_SEED=$(or $(SEED),1) \
		$(BIN)/pytest tests/chaos

.PHONY: fuzz
fuzz: $(READY) ## send malformed input for SECONDS=300 to every way into the meter; SEED=n repeats
	@TOLLKEEPER_FUZZ_SECONDS=$(or $(SECONDS),300) TOLLKEEPER_FUZZ_SEED=$(or $(SEED),1) \
		$(BIN)/pytest tests/fuzz -s
.PHONY: test-meter-bad-input
test-meter-bad-input: $(READY) ## 10,000 drawn requests of every kind against a real meter
	@METER_BAD_INPUT_EXAMPLES=10000 $(BIN)/pytest tests/properties/test_meter_bad_input.py

.PHONY: golden
golden: $(READY) ## rewrite the golden cases; review the diff
	@REWRITE_GOLDEN=1 $(BIN)/pytest tests/golden

.PHONY: check
check: lint types imports buf proto-check $(DEPLOY_CHECK) test ## everything CI runs

# --- running -----------------------------------------------------------------------------------

.PHONY: demo
demo: $(READY) ## boot everything, replay a busy month, close it and reconcile every figure
	@$(BIN)/tollkeeper demo

.PHONY: bench
bench: $(READY) ## measure what the design promises, beside the raw limits
	@$(BIN)/python -m bench

run-%: $(READY) ## serve one of quota, meter, rating, tax, invoicing
	@$(BIN)/python -m services.$* serve
