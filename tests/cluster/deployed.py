"""deploy/ on the cluster, as people put it there: `kubectl apply -k`."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.api import ApiError
from tests.cluster.control_plane import ControlPlane
from tests.cluster.waiting import until
from tests.parts.manifests import DEPLOY
from tests.parts.need import need

NAMESPACES = ("gateway", "models")


def kubectl(cluster: ControlPlane, *args: str, input: str | None = None) -> str:
    """As somebody who may do everything. Warnings are failures: of pods that are not restricted."""
    need(shutil.which("kubectl") is not None, "kubectl (https://kubernetes.io/docs/tasks/tools)")
    command = ["kubectl", f"--kubeconfig={cluster.kubeconfig('tests')}", *args]
    done = subprocess.run(command, input=input, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return done.stdout


def apply(cluster: ControlPlane, overlay: str | Path) -> list[str]:
    """What kubectl says of each object. `overlay`: one of ours, or a folder."""
    folder = DEPLOY / "overlays" / overlay  # a path that is absolute stays what it is
    return kubectl(cluster, "apply", "-k", str(folder)).splitlines()


@contextlib.contextmanager
def deployed(cluster: ControlPlane, overlay: str | Path) -> Iterator[None]:
    """An overlay, until the end of the block; then its namespaces are gone."""
    apply(cluster, overlay)
    try:
        yield
    finally:
        for name in NAMESPACES:
            cluster.api.delete("namespaces", None, name)
        until(lambda: not any(_is_there(cluster, name) for name in NAMESPACES), 120)


def _is_there(cluster: ControlPlane, namespace: str) -> bool:
    try:
        return bool(cluster.api.get("namespaces", None, namespace))
    except ApiError as error:
        if error.status != 404:
            raise
        return False
