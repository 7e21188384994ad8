"""Where the cluster's programs are: in KUBEBUILDER_ASSETS, or built by `make cluster`."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tests.parts.need import need

CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-scheduler", "kube-controller-manager")
NODE = ("kubelet", "tiny")
PROJECT = Path(__file__).parents[2]
BUILT = PROJECT / ".cache" / "cluster"
GET = "make cluster   (or name a folder that holds them in KUBEBUILDER_ASSETS)"


def program(name: str) -> Path | None:
    """One program; None where it is not to be had."""
    folders = [Path(f) for f in (os.environ.get("KUBEBUILDER_ASSETS"),) if f]
    found = (f / name for f in (*folders, BUILT))
    return next((p for p in found if os.access(p, os.X_OK)), None)


def kubectl() -> str:
    """The one of the cluster's release, or whichever is installed. Skips the test where there is
    none (fails in CI)."""
    found = program("kubectl") or shutil.which("kubectl")
    need(found is not None, f"{GET}, for kubectl")
    return str(found)


def need_programs(*names: str) -> None:
    """Skip the test, with the command that gets them, unless all are there (fail in CI)."""
    need(sys.platform == "linux", "Linux: clusters have loopback addresses of their own")
    missing = [name for name in names if program(name) is None]
    need(not missing, f"{GET}, for {', '.join(missing)}")
    need(shutil.which("openssl") is not None, "apt-get install openssl")
