.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory
SHELL := /bin/sh

READY := .venv/setup.stamp

.PHONY: setup
setup: $(READY) ## make .venv with every pinned dependency; quick when nothing changed

.venv/lock.stamp: requirements.lock tools/setup.sh
	@tools/setup.sh venv
	@touch $@

$(READY): .venv/lock.stamp pyproject.toml client/pyproject.toml
	@tools/setup.sh link
	@touch $@
	@echo "ready: .venv/bin/tollkeeper"

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z][a-z<>-]*:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{ printf "  %-18s %s\n", $$1, $$2 }'
