"""The command of each part of the control plane, and how it differs from a production cluster."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.cluster.audit import POLICY
from tests.cluster.identities import Identities, write_kubeconfig
from tests.cluster.part import Part
from tests.cluster.programs import program
from tests.cluster.slots import Slot

SERVICE_ADDRESS = "10.96.0.1"
"""The Service `kubernetes`: the first address of the service range; the real node answers there."""

GRACE_S = 20
"""A node whose lease is this old is not ready. Kubernetes' own is 50."""

TOLERATED_S = 15
"""How long pods stay on a node that is not ready. Kubernetes' own is 300."""

BUSY = ["--kube-api-qps=500", "--kube-api-burst=1000"]
"""Kubernetes' own are 20 to 50, chosen so that many clusters' parts can share one API server."""

SYNCS = [
    f"--concurrent-{kind}-syncs=20"
    for kind in ["deployment", "replicaset", "endpoint", "service-endpoint", "gc", "namespace"]
]
"""Kubernetes' own are 5 to 20."""


def parts_of(slot: Slot, who: Identities) -> list[Part]:
    """The four parts, not yet started."""
    return [
        Part("etcd", slot, _etcd(slot)),
        Part("kube-apiserver", slot, _api_server(slot, who)),
        Part("kube-scheduler", slot, _scheduler(slot, who)),
        Part("kube-controller-manager", slot, _controller_manager(slot, who)),
    ]


def _etcd(slot: Slot) -> list[str]:
    client, peer = f"http://{slot.address}:2379", f"http://{slot.address}:2380"
    return [
        _program("etcd"),
        f"--data-dir={slot.folder}/etcd",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        # A SIGKILL loses nothing (the kernel has the pages); only a power cut would.
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def _api_server(slot: Slot, who: Identities) -> list[str]:
    return [
        _program("kube-apiserver"),
        f"--etcd-servers=http://{slot.address}:2379",
        f"--bind-address={slot.address}",
        "--secure-port=6443",
        # Only told to others, and there are none; a loopback address is refused. (RFC 5737)
        "--advertise-address=203.0.113.1",
        "--endpoint-reconciler-type=none",
        f"--cert-dir={slot.folder}",
        f"--tls-cert-file={who.cert}",
        f"--tls-private-key-file={who.key}",
        f"--token-auth-file={who.token_file}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={who.service_account_key}",
        f"--service-account-signing-key-file={who.service_account_key}",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--allow-privileged=true",
        "--kubelet-preferred-address-types=InternalIP",
        f"--audit-policy-file={_write(slot, 'audit-policy.json', POLICY)}",
        f"--audit-log-path={slot.folder}/audit.log",
        f"--default-not-ready-toleration-seconds={TOLERATED_S}",
        f"--default-unreachable-toleration-seconds={TOLERATED_S}",
    ]


def _scheduler(slot: Slot, who: Identities) -> list[str]:
    kubeconfig = _kubeconfig(slot, who, "system:kube-scheduler")
    config = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "clientConnection": {"kubeconfig": kubeconfig, "qps": 500, "burst": 1000},
        "leaderElection": {"leaderElect": False},
        # A pod that fitted nowhere is tried again after 1 to 2 s; Kubernetes' own: up to 10.
        "podInitialBackoffSeconds": 1,
        "podMaxBackoffSeconds": 2,
    }
    return [
        _program("kube-scheduler"),
        f"--config={_write(slot, 'scheduler.json', config)}",
        f"--bind-address={slot.address}",
        "--secure-port=10259",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
    ]


def _controller_manager(slot: Slot, who: Identities) -> list[str]:
    kubeconfig = _kubeconfig(slot, who, "system:kube-controller-manager")
    return [
        _program("kube-controller-manager"),
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--leader-elect=false",
        f"--bind-address={slot.address}",
        "--secure-port=10257",
        f"--service-account-private-key-file={who.service_account_key}",
        f"--root-ca-file={who.ca}",
        "--node-monitor-period=1s",
        f"--node-monitor-grace-period={GRACE_S}s",
        "--node-eviction-rate=100",
        "--secondary-node-eviction-rate=100",
        *BUSY,
        *SYNCS,
    ]


def _program(name: str) -> str:
    path = program(name)
    if path is None:
        raise RuntimeError(f"{name} is missing: make cluster")
    return str(path)


def _kubeconfig(slot: Slot, who: Identities, user: str) -> str:
    path = slot.folder / f"{user.replace(':', '-')}.kubeconfig"
    url = f"https://{slot.address}:6443"
    return str(write_kubeconfig(path, url, who.ca, who.tokens[user]))


def _write(slot: Slot, name: str, content: Mapping[str, Any]) -> Path:
    path = slot.folder / name
    path.write_text(json.dumps(content, indent=1))
    return path
