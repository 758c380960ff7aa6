# One command for each thing there is to do here; `make help` lists them.
#
#   PYTHON=…  the interpreter to build the environment on     VENV=…  where it lies (.venv)
#   ARGS=…    further arguments of run, test, conformance, bench, chaos and lock

VENV ?= .venv
export PYTHON VENV
BIN = $(VENV)/bin
NODE_MODULES = tests/node_modules/.package-lock.json
PEERS = .venv-bench/.stamp

.DEFAULT_GOAL := help
.PHONY: help setup run test conformance bench chaos check format lock clean

help:  ## list the commands
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 20

setup:  ## make the environment, with .venv/bin/exai in it
	@scripts/setup

run: setup  ## start the daemon with its defaults
	@exec $(BIN)/exai serve $(ARGS)

test: setup $(NODE_MODULES)  ## run all tests, side by side
	@command -v git >/dev/null || scripts/debian_packages git
	@command -v systemd-analyze >/dev/null || scripts/debian_packages systemd
	@command -v promtool >/dev/null || scripts/debian_packages prometheus
	-@tests/container/prepare
	$(BIN)/pytest --numprocesses auto --dist worksteal $(ARGS)

conformance: setup $(NODE_MODULES)  ## MCP's conformance suite, through the daemon and without (ARGS=--help: how)
	$(BIN)/python -m tests.conformance $(ARGS)

bench: setup $(PEERS)  ## measure, beside others, and write bench/REPORT.md (ARGS=--help: what else)
	$(BIN)/python -m bench $(ARGS)

chaos: setup  ## kill the daemon under load, and prove that nothing is lost (ARGS=--help: how)
	$(BIN)/python -m bench.chaos $(ARGS)

check: setup  ## format, lint, types, imports, shape, container files
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python scripts/shape_report.py
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec compose.yaml

format: setup  ## put the source into shape
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lock: setup  ## resolve the requirements, of all, the image and the bench (ARGS=--upgrade: newest)
	$(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 \
		--extra local --group dev --generate-hashes --no-emit-index-url \
		--custom-compile-command "make lock" --output-file requirements.lock $(ARGS)
	$(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 \
		--constraints requirements.lock --generate-hashes --no-emit-index-url \
		--custom-compile-command "make lock" --output-file requirements-runtime.lock
	$(BIN)/uv pip compile bench/requirements-peers.in --quiet --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url \
		--custom-compile-command "make lock" --output-file bench/requirements-peers.txt $(ARGS)

clean:  ## remove everything that was made
	rm -rf .venv* dist build tests/node_modules .mypy_cache .pytest_cache .ruff_cache \
		.import_linter_cache .hypothesis .coverage src/*.egg-info
	find src tests scripts bench -name __pycache__ -prune -exec rm -rf {} +

# Servers of others pin what EXAI does not. Without them the report says what was not measured.
$(PEERS): bench/requirements-peers.txt | setup
	@rm -rf .venv-bench
	@$(BIN)/uv venv --quiet --python $(BIN)/python .venv-bench && $(BIN)/uv pip sync --quiet \
		--python .venv-bench --require-hashes bench/requirements-peers.txt && touch $@ || \
		{ rm -rf .venv-bench; echo "bench: FastMCP cannot be installed; the rest is measured"; }

$(NODE_MODULES): tests/package.json tests/package-lock.json tests/.npmrc
	@command -v npm >/dev/null || scripts/debian_packages nodejs npm
	npm --prefix tests ci --silent
	@touch $@
