# The project's commands, the same for people and CI. Everything runs in $(VENV), made on first use.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
MODELS ?= .cache/models
CLUSTER ?= .cache/cluster
export H2SPEC ?= .cache/bin/h2spec

.DEFAULT_GOAL := help
.PHONY: help venv models demo serve images cluster test test-long test-native fuzz check format bench bench-native profile native protos clean

help:            ## say what each target does
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

venv: $(BIN)/.installed ## make the virtual environment with every extra that tests and demo need

$(BIN)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3.11 …"; exit 1; }
	@echo "Making $(VENV): TensorFlow, onnxruntime, OpenCV and the test tools, about 3 GB, some minutes …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet -e '.[onnx,tensorflow,caffe,kubernetes,postgres,dev,stock-clients,bench]'
	@touch $@

models: venv     ## fetch the real models (basic-pitch, open_nsfw, magika) into .cache/models
	@$(BIN)/python -m tests.parts.fetch_models $(MODELS)

# The HTTP/2 conformance suite, from its Go module. Without Go its test skips (and fails in CI).
$(H2SPEC):
	@if command -v go >/dev/null; then mkdir -p $(@D) && \
	  GOBIN=$(abspath $(@D)) go install github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible; \
	else echo "Go is not installed, so h2spec is not built and its test is skipped (apt-get install golang-go)"; fi

cluster:         ## build a real Kubernetes control plane and node for the tests (tests/cluster/README.md)
	@tests/cluster/binaries/build.sh $(CLUSTER)

# Where no image registry is reached: make images BASE=local (needs debootstrap and root).
images: venv     ## build the container images with podman; see deploy/image/README.md
	@PYTHON=$(BIN)/python BASE=$(BASE) deploy/image/build.sh $(IMAGES)

# Optional: mypyc makes C of the request path, from the same files, in a copy; the sources are as before.
NATIVE := $(patsubst %,gateway/%.py, \
  codecs/oip_scan codecs/proto_feed codecs/proto_walk codecs/tfs_scan \
  core/admission core/balance core/dialect core/retry \
  $(addprefix dataplane/,body callers forwarding front grpc grpc_caller grpc_parts http http_caller \
    http_parts inflight observing pieces plane replicas rescue seen v2_http) \
  telemetry/metrics telemetry/tallies upstream/grpc upstream/http \
  $(addprefix wire/,exchange fields grpc grpc_call grpc_client grpc_messages grpc_text h1_chunked \
    h1_client h1_client_connection h1_exchange h1_heads h1_server h2_bounds h2_client \
    h2_client_connection h2_client_side h2_client_stream h2_control h2_core h2_frames h2_heads \
    h2_keepalive h2_outbox h2_sending h2_server h2_server_side h2_server_stream h2_streams \
    h2_transport hpack whole))

native: venv     ## optional: compile the request path into build/native (C compiler, 2 minutes)
	@rm -rf build/native && mkdir -p build/native && cp -r gateway build/native/
	@cd build/native && MYPYC_OPT_LEVEL=2 MYPYC_DEBUG_LEVEL=0 $(abspath $(BIN))/mypyc \
	  --config-file $(CURDIR)/pyproject.toml $(NATIVE) >build.log 2>&1 || { cat build.log; exit 1; }
	@echo "Run it with: PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/build/native $(BIN)/gateway serve"

NATIVE_TESTS := tests/unit/wire tests/unit/dataplane tests/unit/core $(addprefix tests/integration/test_, \
  dataplane_flow.py dataplane_held.py dataplane_http.py dataplane_grpc.py dataplane_tls.py workers.py)

# Beside its own copy of the tests, because pytest puts the folder that it runs in first.
test-native: native ## the wire and the data plane in the compiled form
	@cp -r tests servers loadtests pyproject.toml build/native/
	@cd build/native && $(abspath $(BIN))/python -c 'import gateway.wire.h2_core as m; assert m.__file__.endswith(".so"), m'
	@cd build/native && $(abspath $(BIN))/python -m pytest -q -p no:cacheprovider $(NATIVE_TESTS)

demo: models     ## the main job on real models, ends by itself and says what it showed
	@$(BIN)/python -m examples.demo

serve: venv      ## run a gateway on this machine
	@$(BIN)/gateway serve

test: models $(H2SPEC) ## every test but the long ones (under 10 minutes)
	@$(BIN)/python -m pytest -m "not long" -n 3 --dist loadfile $(PYTEST_ARGS)

test-long: models ## the long ones: 20 swaps under load with kills, 100,000 mutated requests
	@$(BIN)/python -m pytest -m long $(PYTEST_ARGS)

# By CPU time for each target. Nothing else needs atheris, so it is installed here only.
FUZZ_CPU_S   ?= 600
FUZZ_TARGETS ?=
fuzz: venv       ## fuzz the wire, keep what covers something new (tests/fuzz/README.md)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet -e '.[fuzz]'
	@nice $(BIN)/python -m tests.fuzz.run $(FUZZ_TARGETS) --cpu-s $(FUZZ_CPU_S)

check: venv      ## format, lint, types, import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: venv     ## put the code into shape
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: venv      ## every speed figure beside Envoy, Triton, MLServer, KServe; writes loadtests/results/ (20 minutes)
	@$(BIN)/python -m loadtests.bench $(BENCH_ARGS)

bench-native: native ## the same with the compiled request path (see gateway/wire/README.md)
	@PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/build/native:$(CURDIR) $(BIN)/python -m loadtests.bench $(BENCH_ARGS)

profile: venv    ## flame graphs of the gateway under load, over HTTP and gRPC, in build/
	@$(BIN)/python -m loadtests.profile $(PROFILE_ARGS)

# 1.73.1 brings protoc 31.1, whose output runs on every protobuf runtime from 6.31.1 to 7.x.
protos:          ## write the message classes anew from protos/
	@$(PYTHON) -m venv build/protoc && build/protoc/bin/pip install --quiet grpcio-tools==1.73.1
	@build/protoc/bin/python -m grpc_tools.protoc -Iprotos --python_out=. --pyi_out=. gateway/codecs/pb/tfs.proto gateway/codecs/pb/oip.proto gateway/codecs/pb/oip.proto

clean:           ## remove what the other targets made, but for the models
	@rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
