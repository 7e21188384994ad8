# One image for the gateway and one for each model server, from one file:
#   docker build --target gateway       -t gateway .
#   docker build --target server-onnx   -t gateway-onnx .      (EXTRA=onnx-gpu for CUDA)
# BASE is any Debian or Ubuntu with Python >= 3.11.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS wheels
ARG EXTRA=
RUN command -v python3 >/dev/null && python3 -m venv --help >/dev/null
WORKDIR /src
COPY pyproject.toml README.md ./
COPY gateway gateway
COPY servers servers
RUN python3 -m venv /opt/gateway && /opt/gateway/bin/pip install --no-cache-dir .

FROM wheels AS wheels-onnx
ARG EXTRA=onnx
RUN /opt/gateway/bin/pip install --no-cache-dir ".[${EXTRA}]"

FROM wheels AS wheels-caffe
RUN /opt/gateway/bin/pip install --no-cache-dir ".[caffe]"

FROM wheels AS wheels-tensorflow
RUN /opt/gateway/bin/pip install --no-cache-dir ".[tensorflow]"

# What all images share: no root, nothing written outside /var/lib/gateway and /tmp, no telemetry.
FROM ${BASE} AS runtime
RUN useradd --system --uid 10001 --home-dir /var/lib/gateway --create-home gateway
ENV PATH=/opt/gateway/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    XDG_STATE_HOME=/var/lib
USER 10001
WORKDIR /var/lib/gateway
VOLUME /var/lib/gateway

FROM runtime AS server-onnx
COPY --from=wheels-onnx /opt/gateway /opt/gateway
EXPOSE 8500 8501
ENTRYPOINT ["python", "-m", "servers.onnx", "--http", "0.0.0.0:8501", "--grpc", "0.0.0.0:8500", "--cache-dir", "/var/lib/gateway/cache"]

FROM runtime AS server-caffe
COPY --from=wheels-caffe /opt/gateway /opt/gateway
EXPOSE 8500 8501
ENTRYPOINT ["python", "-m", "servers.caffe", "--http", "0.0.0.0:8501", "--grpc", "0.0.0.0:8500", "--cache-dir", "/var/lib/gateway/cache"]

FROM runtime AS server-tensorflow
COPY --from=wheels-tensorflow /opt/gateway /opt/gateway
EXPOSE 8500 8501
ENTRYPOINT ["python", "-m", "servers.tensorflow", "--http", "0.0.0.0:8501", "--grpc", "0.0.0.0:8500", "--cache-dir", "/var/lib/gateway/cache"]

# The gateway by itself runs model servers as local processes, so it brings the ONNX one.
FROM runtime AS gateway
COPY --from=wheels-onnx /opt/gateway /opt/gateway
EXPOSE 8500 8501 8080
ENTRYPOINT ["gateway"]
CMD ["serve", "--state", "/var/lib/gateway/state"]
