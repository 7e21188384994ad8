"""What the cluster's events say of a pod. Pure.

Only what its status does not say as well or better: that it finds no node, or crashes, stands in
the status.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.schedulers.kubernetes.why import cut

_IN_STATUS = ("FailedScheduling", "BackOff", "Failed", "NotTriggerScaleUp")


@dataclass(frozen=True, slots=True)
class PodWarning:
    """One warning about one pod."""

    pod: str
    uid: str
    text: str
    """Empty where its status says it."""


def warning_of(shown: Mapping[str, Any]) -> PodWarning:
    """A warning from an Event's JSON."""
    about, reason = shown.get("involvedObject") or {}, shown.get("reason") or ""
    text = "" if reason in _IN_STATUS else cut(f"{reason}: {shown.get('message') or ''}")
    return PodWarning(about.get("name", ""), about.get("uid", ""), text)
