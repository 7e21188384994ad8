"""The Kubernetes scheduler on the real control plane, for the suite that all schedulers pass."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from gateway.domain.replicas import Replica
from gateway.schedulers.kubernetes.pods import pod_of_replica
from gateway.schedulers.kubernetes.scheduler import KubernetesScheduler
from gateway.schedulers.kubernetes.settings import KubernetesSettings
from tests.cluster.control_plane import ControlPlane
from tests.cluster.made_nodes import MadeNodes
from tests.parts.local_replicas import SERVER

PYTHON = "localhost/tests/python:1"

# In a pod a server listens on the pod's address; in a made one that is put in the place of this.
IMAGE = {
    "image": PYTHON,
    "timeout_s": 1.0,
    "source": "s3://nowhere/m",
    "code": SERVER.replace("127.0.0.1", "0.0.0.0"),
}


@asynccontextmanager
async def on_pods(
    cluster: ControlPlane, namespace: str
) -> AsyncIterator[tuple[KubernetesScheduler, Callable[[Replica], None]]]:
    """A scheduler with two nodes to itself, and how to kill a replica's process."""
    settings = KubernetesSettings(
        kubeconfig=str(cluster.kubeconfig()),
        namespace=namespace,
        leave_s=2.0,
    )
    with MadeNodes(cluster, {PYTHON: [sys.executable]}) as nodes:
        nodes.add("port-a")
        nodes.add("port-b")
        async with KubernetesScheduler(settings) as scheduler:
            yield (
                scheduler,
                lambda replica: os.kill(nodes.pod(pod_of_replica(replica.id)).pid, signal.SIGKILL),
            )
