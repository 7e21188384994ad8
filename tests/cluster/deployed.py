"""deploy/ on the cluster, as people put it there: `kubectl apply -k`."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import yaml

from tests.cluster import programs
from tests.cluster.api import ApiError
from tests.cluster.control_plane import ControlPlane
from tests.cluster.waiting import until
from tests.parts.manifests import folder_of, known, objects

NAMESPACES = ("gateway", "models")


def kubectl(cluster: ControlPlane, *args: str, input: str | None = None) -> str:
    """As somebody who may do everything. Warnings are failures: of pods that are not restricted."""
    command = [programs.kubectl(), f"--kubeconfig={cluster.kubeconfig('tests')}", *args]
    done = subprocess.run(command, input=input, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return done.stdout


def apply(cluster: ControlPlane, overlay: str | Path, *flags: str) -> list[str]:
    """What kubectl says of each object. `overlay`: one of ours, or a folder; of one with the
    component `monitoring`, all but what needs the Prometheus operator."""
    if known(overlay) == objects(overlay):
        return kubectl(cluster, "apply", *flags, "-k", str(folder_of(overlay))).splitlines()
    text = yaml.safe_dump_all(known(overlay))
    return kubectl(cluster, "apply", *flags, "-f", "-", input=text).splitlines()


@contextlib.contextmanager
def deployed(cluster: ControlPlane, overlay: str | Path) -> Iterator[None]:
    """An overlay, until the end of the block; then its namespaces are gone."""
    apply(cluster, overlay)
    try:
        yield
    finally:
        for name in NAMESPACES:
            cluster.api.delete("namespaces", None, name)
            # Its controller looks after 5 s, and if there are pods then, after half their grace.
            for pod in cluster.api.list("pods", name):
                cluster.api.delete("pods", name, pod["metadata"]["name"], grace_s=0)
        until(lambda: not any(_is_there(cluster, name) for name in NAMESPACES), 120)


def _is_there(cluster: ControlPlane, namespace: str) -> bool:
    try:
        return bool(cluster.api.get("namespaces", None, namespace))
    except ApiError as error:
        if error.status != 404:
            raise
        return False
