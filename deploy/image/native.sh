#!/bin/sh
# In /opt/app, put the compiled request path in the place of its sources. The compiler stays behind in
# this stage.
set -eu
apt-get update
apt-get install -y --no-install-recommends gcc libc6-dev make python3-dev
sh /src/environment.sh "mypy>=1.13" setuptools types-protobuf types-PyYAML grpc-stubs
cd /src
cp -r /opt/app/gateway .
touch /opt/gateway/bin/.installed
make native BIN=/opt/gateway/bin
rm -rf /opt/app/gateway
# The modules are thin; what they share is a library beside them.
cp -r build/native/gateway build/native/*__mypyc*.so /opt/app/
python3 -m compileall -q /opt/app
cd /opt/app
/opt/gateway/bin/python -c 'import gateway.wire.h2_core as m; assert m.__file__.endswith(".so"), m'
