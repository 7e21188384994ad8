#!/usr/bin/env bash
# Build the programs of a real Kubernetes control plane and node from their Go modules: FOLDER/etcd,
# FOLDER/kube-apiserver, … A program that is there and as asked for is left alone, and so is one that
# KUBEBUILDER_ASSETS already holds. About 12 minutes on two cores when Go's build cache is empty.
set -euo pipefail
folder=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "$0")"

needed=$(sed -n 's/^go //p' go.mod)
have=$({ go env GOVERSION 2>/dev/null || true; } | sed 's/^go//; s/[ -].*//')
if [ -z "$have" ] || [ "$(printf '%s\n' "$needed" "$have" | sort -V | head -1)" != "$needed" ]; then
  echo "The Kubernetes programs cannot be built: Go is ${have:-not installed}. Install Go $needed or newer"
  echo "(https://go.dev/doc/install), or put etcd, kube-apiserver, kube-scheduler,"
  echo "kube-controller-manager and kubelet of one release into a folder and name it in"
  echo "KUBEBUILDER_ASSETS (tests/cluster/README.md)."
  exit 1
fi

# In the order in which tests can begin to use them: the control plane needs no kubelet.
programs=(
  etcd=go.etcd.io/etcd/server/v3
  kube-apiserver=k8s.io/kubernetes/cmd/kube-apiserver
  kube-scheduler=k8s.io/kubernetes/cmd/kube-scheduler
  kube-controller-manager=k8s.io/kubernetes/cmd/kube-controller-manager
  tiny=./tiny
  kubectl=k8s.io/kubernetes/cmd/kubectl
  kubelet=k8s.io/kubernetes/cmd/kubelet
)
# The release is told to the linker, as Kubernetes' own build does; without it /version says v0.0.0-master.
release=$(sed -nE 's/^\tk8s.io\/kubernetes (v[^ ]+).*/\1/p' go.mod)
minor=${release#v1.}
version=k8s.io/component-base/version
link="-s -w -X $version.gitVersion=$release -X $version.gitMajor=1 -X $version.gitMinor=${minor%%.*}"
# grpcnotrace: as upstream builds release binaries; it lets the linker drop dead code.
options=(-mod=readonly -trimpath -tags=grpcnotrace -p="${CLUSTER_BUILD_JOBS:-$(nproc)}")
stamp=$({ cat go.mod go.sum tiny/main.go; echo "$link"; } | sha256sum | cut -c1-16)

export CGO_ENABLED=0
for program in "${programs[@]}"; do
  name=${program%%=*} package=${program#*=} began=$SECONDS
  if [ -x "${KUBEBUILDER_ASSETS:+$KUBEBUILDER_ASSETS/$name}" ]; then
    echo "$name: taken from KUBEBUILDER_ASSETS"
  elif [ -x "$folder/$name" ] && [ "$(cat "$folder/.$name.stamp" 2>/dev/null)" = "$stamp" ]; then
    echo "$name: built already"
  else
    echo "$name: building $package …"
    # Renamed into place, so that a test that runs meanwhile never sees half a program.
    nice -n 10 go build "${options[@]}" -ldflags "$link" -o "$folder/.$name.new" "$package"
    mv "$folder/.$name.new" "$folder/$name"
    echo "$stamp" >"$folder/.$name.stamp"
    echo "$name: built in $((SECONDS - began)) s, $(($(stat -c %s "$folder/$name") / 1000000)) MB"
  fi
done
