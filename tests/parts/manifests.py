"""The manifests under deploy/, as kustomize makes them of each overlay."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.programs import kubectl

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
OVERLAYS = ("local", "production")
MONITORING = ("PodMonitor", "PrometheusRule")
"""Kinds of the Prometheus operator, which is on no cluster of the tests."""

Object = dict[str, Any]


def folder_of(overlay: str | Path) -> Path:
    """`overlay`: the name of one of ours, or a folder."""
    return DEPLOY / "overlays" / overlay  # a path that is absolute stays what it is


@cache
def text_of(overlay: str | Path) -> str:
    """All objects of an overlay, as YAML."""
    command = [kubectl(), "kustomize", folder_of(overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(overlay: str | Path) -> list[Object]:
    """The same, read; they are the caller's own."""
    return [o for o in yaml.safe_load_all(text_of(overlay)) if o]


def known(overlay: str | Path) -> list[Object]:
    """Those that an API server without the Prometheus operator takes."""
    return [o for o in objects(overlay) if o["kind"] not in MONITORING]


def one(overlay: str, kind: str, name: str, namespace: str = "gateway") -> Object:
    """The one object of a kind and name."""
    (found,) = [
        o
        for o in objects(overlay)
        if (o["kind"], o["metadata"]["name"]) == (kind, name)
        and o["metadata"].get("namespace") in (namespace, None)
    ]
    return found
