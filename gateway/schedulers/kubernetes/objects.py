"""Our objects other than pods as the API server shows them, and whether they are still as we
applied them. Pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.schedulers.kubernetes import names

# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_QUANTITY = re.compile(r"([0-9.]+)(m|k|[MGTPE]|[KMGTPE]i)?")
_FACTORS = {
    "m": 1e-3,
    "k": 1e3,
    **{unit: 10.0 ** (3 * power) for power, unit in enumerate("MGTPE", start=2)},
    **{f"{unit}i": 1024.0**power for power, unit in enumerate("KMGTPE", start=1)},
}

# By what the members of a list are told apart, the first that they have.
_KEYS = ("name", "containerPort", "port", "topologyKey", "key", "mountPath", "secretRef")


@dataclass(frozen=True, slots=True)
class Live:
    """One Deployment, Service or PodDisruptionBudget of ours."""

    name: str
    uid: str
    applied: str
    """Digest of the manifest that it was last made from."""
    trouble: str = ""
    """Why its pods cannot be made (a quota, an admission rule), in the controller's words."""


def live_of(shown: Mapping[str, Any]) -> Live:
    """An object from the API server's JSON."""
    metadata = shown["metadata"]
    conditions = (shown.get("status") or {}).get("conditions") or ()
    failing = [c for c in conditions if c["type"] == "ReplicaFailure" and c["status"] == "True"]
    return Live(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        applied=(metadata.get("annotations") or {}).get(names.APPLIED, ""),
        trouble=failing[0].get("message", "") if failing else "",
    )


_WHAT_IT_IS = ("apiVersion", "kind")


def is_as_made(live: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
    """Whether an object of the manifest's kind has all that it says. The API server leaves what an
    object is out of the items of a list: whoever has just started knows them like that."""
    return covers(live, {k: v for k, v in manifest.items() if k not in _WHAT_IT_IS})


def covers(live: Any, manifest: Any) -> bool:
    """Whether `live` has all that `manifest` says; what it has besides is others'."""
    if not live and not manifest:
        return True  # the API server leaves out what is empty
    if isinstance(manifest, Mapping):
        return isinstance(live, Mapping) and all(
            covers(live.get(key), value) for key, value in manifest.items()
        )
    if isinstance(manifest, Sequence) and not isinstance(manifest, str):
        return isinstance(live, Sequence) and _covers_list(live, manifest)
    # It writes quantities in its own way.
    return bool(live == manifest or _same_quantity(live, manifest))


def _covers_list(live: Sequence[Any], manifest: Sequence[Any]) -> bool:
    key = _key_of(manifest)
    if key is None:
        return len(live) == len(manifest) and all(map(covers, live, manifest))
    by_key = {str(one.get(key)): one for one in live if isinstance(one, Mapping)}
    return all(covers(by_key.get(str(one[key])), one) for one in manifest)


def _key_of(members: Sequence[Any]) -> str | None:
    for key in _KEYS:
        if members and all(isinstance(m, Mapping) and key in m for m in members):
            return key
    return None


def _same_quantity(a: Any, b: Any) -> bool:
    x, y = _number(a), _number(b)
    return x is not None and y is not None and math.isclose(x, y, rel_tol=1e-9)


def _number(text: Any) -> float | None:
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        return None
    try:
        return float(match[1]) * _FACTORS.get(match[2] or "", 1.0)
    except ValueError:
        return None
