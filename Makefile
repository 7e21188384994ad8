# The project's commands, the same for people and CI. Everything runs in $(VENV), made on first use.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
MODELS ?= .cache/models

.DEFAULT_GOAL := help
.PHONY: help venv models demo serve test test-long check format bench protos clean

help:            ## say what each target does
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

venv: $(BIN)/.installed ## make the virtual environment with every extra that tests and demo need

$(BIN)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3.11 …"; exit 1; }
	@echo "Making $(VENV): TensorFlow, onnxruntime, OpenCV and the test tools, about 3 GB, some minutes …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet -e '.[onnx,tensorflow,caffe,dev,stock-clients,bench]'
	@touch $@

models: venv     ## fetch the real models (basic-pitch, open_nsfw, magika) into .cache/models
	@$(BIN)/python -m tests.parts.fetch_models $(MODELS)

demo: models     ## the main job on real models, ends by itself and says what it showed
	@$(BIN)/python -m examples.demo

serve: venv      ## run a gateway on this machine
	@$(BIN)/gateway serve

test: models     ## every test but the long ones (under 10 minutes)
	@$(BIN)/python -m pytest -m "not long" $(PYTEST_ARGS)

test-long: models ## the long ones: 20 swaps under load with kills, 100,000 mutated requests
	@$(BIN)/python -m pytest -m long $(PYTEST_ARGS)

check: venv      ## format, lint, types, import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: venv     ## put the code into shape
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: venv      ## the gateway beside a direct call and beside Envoy, and translation beside a copy; writes loadtests/results/
	@$(BIN)/python -m loadtests.bench
	@$(BIN)/python -m loadtests.passthrough
	@$(BIN)/python -m loadtests.translation

# 1.73.1 brings protoc 31.1, whose output runs on every protobuf runtime from 6.31.1 to 7.x.
protos:          ## write the message classes anew from protos/
	@$(PYTHON) -m venv build/protoc && build/protoc/bin/pip install --quiet grpcio-tools==1.73.1
	@build/protoc/bin/python -m grpc_tools.protoc -Iprotos --python_out=. --pyi_out=. gateway/codecs/pb/tfs.proto gateway/codecs/pb/oip.proto gateway/codecs/pb/oip.proto

clean:           ## remove what the other targets made, but for the models
	@rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
