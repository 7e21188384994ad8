#!/bin/sh
# Make /opt/gateway, an environment without pip, or add to it what pip is asked for here.
set -eu
[ -x /opt/pip/bin/pip ] || python3 -m venv /opt/pip
[ -x /opt/gateway/bin/python ] || python3 -m venv --without-pip /opt/gateway
/opt/pip/bin/pip --python /opt/gateway/bin/python --no-cache-dir --disable-pip-version-check install "$@"
# Headers for building TensorFlow ops, 150 MB that nothing reads at run time.
rm -rf /opt/gateway/lib/python3*/site-packages/tensorflow/include
