# One image for the gateway and one for each model server:
#   docker build --target gateway     -t gateway .
#   docker build --target server-onnx -t server-onnx .
#   … server-caffe, server-tensorflow, and agent, which stands beside a stock tensorflow/serving
# `make images` builds and names all of them. deploy/image/README.md has the build arguments.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS base
RUN python3 -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' || { \
      apt-get update && apt-get install -y --no-install-recommends python3 python3-venv \
      && rm -rf /var/lib/apt/lists/*; }

# ---- our code: one small layer, above what seldom changes ----

FROM base AS app
COPY gateway /opt/app/gateway
COPY servers /opt/app/servers
COPY deploy/image/gateway deploy/image/healthy /opt/app/bin/
ARG REVISION=
RUN python3 -m compileall -q /opt/app && echo "$REVISION" > /opt/app/REVISION

# ---- what it stands on: an environment without pip for each image ----

# Dated alike, so that a change of pyproject.toml that is none of these makes no environment anew.
FROM base AS wanted
ARG GATEWAY_EXTRAS="kubernetes postgres onnx"
COPY deploy/image/requirements.py pyproject.toml /src/
WORKDIR /wanted
RUN python3 /src/requirements.py > agent \
 && python3 /src/requirements.py ${GATEWAY_EXTRAS} > gateway \
 && for extra in onnx onnx-gpu caffe tensorflow-cpu tensorflow-gpu; do \
      python3 /src/requirements.py $extra > $extra || exit 1; \
    done \
 && touch -d @0 *

# The PIP_ arguments are pip's own variables; they reach no image that is kept.
FROM base AS env-gateway
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_NO_INDEX
COPY deploy/image/environment.sh /src/
COPY --from=wanted /wanted/gateway /src/wanted
RUN sh /src/environment.sh -r /src/wanted

FROM base AS env-agent
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_NO_INDEX
COPY deploy/image/environment.sh /src/
COPY --from=wanted /wanted/agent /src/wanted
RUN sh /src/environment.sh -r /src/wanted

FROM base AS env-caffe
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_NO_INDEX
COPY deploy/image/environment.sh /src/
COPY --from=wanted /wanted/caffe /src/wanted
RUN sh /src/environment.sh -r /src/wanted

FROM base AS env-onnx
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_NO_INDEX
ARG ACCELERATOR=cpu
COPY deploy/image/environment.sh /src/
COPY --from=wanted /wanted/onnx /wanted/onnx-gpu /src/
RUN case "$ACCELERATOR" in cuda) wanted=onnx-gpu;; *) wanted=onnx;; esac \
 && sh /src/environment.sh -r /src/$wanted

FROM base AS env-tensorflow
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_NO_INDEX
ARG ACCELERATOR=cpu
COPY deploy/image/environment.sh /src/
COPY --from=wanted /wanted/tensorflow-cpu /wanted/tensorflow-gpu /src/
RUN case "$ACCELERATOR" in cuda) wanted=tensorflow-gpu;; *) wanted=tensorflow-cpu;; esac \
 && sh /src/environment.sh -r /src/$wanted

# The request path as Python or, with --build-arg REQUEST_PATH=native, as C made from the same files
# (gateway/wire/README.md).
FROM env-gateway AS app-gateway
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_NO_INDEX
ARG REQUEST_PATH=python
COPY --from=app /opt/app /opt/app
COPY deploy/image/native.sh pyproject.toml Makefile /src/
RUN if [ "$REQUEST_PATH" = native ]; then sh /src/native.sh; fi

# ---- the images ----
# Written is only under /var/lib/gateway and /tmp. A numeric user, so that Kubernetes can see that it
# is not root; its group is root's, as clusters that pick a user at random keep that one.

FROM base AS runtime
RUN mkdir -p /var/lib/gateway && chown 10001:0 /var/lib/gateway && chmod 775 /var/lib/gateway
ENV PATH=/opt/app/bin:/opt/gateway/bin:$PATH \
    HOME=/var/lib/gateway \
    XDG_STATE_HOME=/var/lib \
    PYTHONPATH=/opt/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1
USER 10001:0
WORKDIR /var/lib/gateway
VOLUME /var/lib/gateway

FROM runtime AS server-onnx
COPY --from=env-onnx /opt/gateway /opt/gateway
COPY --from=app /opt/app /opt/app
EXPOSE 8500 8501
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["healthy", "http://127.0.0.1:8501/v2/health/live"]
ENTRYPOINT ["python", "-m", "servers.onnx"]
CMD ["--http", "0.0.0.0:8501", "--grpc", "0.0.0.0:8500", "--cache-dir", "/var/lib/gateway/cache"]
LABEL org.opencontainers.image.title="server-onnx" \
      org.opencontainers.image.description="Serves ONNX models to the gateway, over TensorFlow Serving's protocols and V2" \
      org.opencontainers.image.licenses="Apache-2.0"

FROM runtime AS server-caffe
COPY --from=env-caffe /opt/gateway /opt/gateway
COPY --from=app /opt/app /opt/app
EXPOSE 8500 8501
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["healthy", "http://127.0.0.1:8501/v2/health/live"]
ENTRYPOINT ["python", "-m", "servers.caffe"]
CMD ["--http", "0.0.0.0:8501", "--grpc", "0.0.0.0:8500", "--cache-dir", "/var/lib/gateway/cache"]
LABEL org.opencontainers.image.title="server-caffe" \
      org.opencontainers.image.description="Serves Caffe models to the gateway, over TensorFlow Serving's protocols and V2" \
      org.opencontainers.image.licenses="Apache-2.0"

FROM runtime AS server-tensorflow
ENV TF_CPP_MIN_LOG_LEVEL=2
COPY --from=env-tensorflow /opt/gateway /opt/gateway
COPY --from=app /opt/app /opt/app
EXPOSE 8500 8501
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s CMD ["healthy", "http://127.0.0.1:8501/v2/health/live"]
ENTRYPOINT ["python", "-m", "servers.tensorflow"]
CMD ["--http", "0.0.0.0:8501", "--grpc", "0.0.0.0:8500", "--cache-dir", "/var/lib/gateway/cache"]
LABEL org.opencontainers.image.title="server-tensorflow" \
      org.opencontainers.image.description="Serves SavedModels to the gateway, over TensorFlow Serving's protocols and V2" \
      org.opencontainers.image.licenses="Apache-2.0"

# Beside a stock tensorflow/serving that shares /models with it and has 8500 and 8501.
FROM runtime AS agent
COPY --from=env-agent /opt/gateway /opt/gateway
COPY --from=app /opt/app /opt/app
EXPOSE 8510 8511
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["healthy", "http://127.0.0.1:8511/replica/status"]
ENTRYPOINT ["python", "-m", "servers.agent"]
CMD ["--shared-dir", "/models", "--http", "0.0.0.0:8511", "--grpc", "0.0.0.0:8510", "--cache-dir", "/var/lib/gateway/cache"]
LABEL org.opencontainers.image.title="agent" \
      org.opencontainers.image.description="Fetches models for the stock TensorFlow Serving beside it and tells it what to hold" \
      org.opencontainers.image.licenses="Apache-2.0"

# By itself it runs ONNX model servers as processes; on Kubernetes the replicas are pods of the images above.
FROM runtime AS gateway
COPY --from=env-gateway /opt/gateway /opt/gateway
COPY --from=app-gateway /opt/app /opt/app
ENV GATEWAY_HTTP=0.0.0.0:8501 \
    GATEWAY_GRPC=0.0.0.0:8500 \
    GATEWAY_CONTROL=0.0.0.0:8080 \
    GATEWAY_STATE=/var/lib/gateway
EXPOSE 8500 8501 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["healthy", "http://127.0.0.1:8080/healthz"]
ENTRYPOINT ["gateway"]
CMD ["serve"]
LABEL org.opencontainers.image.title="gateway" \
      org.opencontainers.image.description="A model-serving gateway: predictions over HTTP and gRPC to replicated model servers" \
      org.opencontainers.image.licenses="Apache-2.0"
