#!/usr/bin/env bash
# Build the images: build.sh [TARGET…]; see README.md here for what can be set.
#
# The packages are fetched outside, by the pip that is set up on this machine, and mounted into a
# build without network: no index, proxy or password gets near an image, and targets share them.
set -euo pipefail
cd "$(dirname "$0")/../.."
targets=("$@")
[ $# -gt 0 ] || targets=(gateway server-onnx server-caffe server-tensorflow agent)
base=${BASE:-docker.io/library/python:3.11-slim-bookworm}
repository=${REPOSITORY:-localhost}
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' gateway/__init__.py)
revision=$(git rev-parse HEAD 2>/dev/null || true)
tag=${TAG:-$version}
python=${PYTHON:-python3}
wheels=$PWD/.cache/images/wheels

command -v podman >/dev/null || {
  echo "podman is missing; install it with: apt-get install podman runc" >&2; exit 1; }
# Without CAP_SYS_RESOURCE podman's own, higher limits cannot be set, and crun gives up over less.
limits=(--ulimit nofile=1024:1024 --ulimit nproc=4096:4096)
podman=(podman)
if runc=$(command -v runc); then podman+=(--runtime "$runc"); fi

if [ "$base" = local ]; then
  deploy/image/base-image.sh
  base=localhost/gateway-base:bookworm
fi

# Wheels are for one version of Python.
theirs=$("${podman[@]}" run --rm --network none "${limits[@]}" "$base" \
  python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
ours=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ "$ours" = "$theirs" ] || {
  echo "$base has Python $theirs and $python is $ours; name one that fits: make images PYTHON=python$theirs" >&2
  exit 1; }
mkdir -p "$wheels"
# What was fetched for the same requirements within a day is taken again.
fetch() {
  local wanted stamp
  wanted=$("$python" deploy/image/requirements.py "$@")
  stamp=$wheels/.$(sha256sum <<<"$wanted" | cut -c1-16).fetched
  [ -z "$(find "$stamp" -mmin -1440 2>/dev/null)" ] || return 0
  "$python" -m pip download --quiet --disable-pip-version-check --only-binary :all: \
    --find-links "$wheels" --dest "$wheels" -r <(echo "$wanted")
  touch "$stamp"
}
for target in "${targets[@]}"; do
  case $target in
    gateway) fetch kubernetes postgres onnx ;;
    server-onnx) fetch onnx ;;
    server-caffe) fetch caffe ;;
    server-tensorflow) fetch tensorflow-cpu ;;
    agent) fetch ;;
    *) echo "there is no image $target; there are gateway, agent, server-onnx, server-caffe and server-tensorflow" >&2; exit 2 ;;
  esac
done

for target in "${targets[@]}"; do
  name=$repository/$target:$tag
  echo "building $name"
  "${podman[@]}" build --quiet --format docker --isolation oci --network none "${limits[@]}" \
    --volume "$wheels:/wheels:ro" \
    --build-arg PIP_NO_INDEX=1 --build-arg PIP_FIND_LINKS=/wheels \
    --build-arg PIP_INDEX_URL= --build-arg PIP_EXTRA_INDEX_URL= \
    --build-arg BASE_IMAGE="$base" \
    --build-arg REVISION="$revision" \
    --label org.opencontainers.image.version="$version" \
    --label org.opencontainers.image.revision="$revision" \
    --target "$target" --tag "$name" .
done
