"""What was asked of the API server: its own audit log, read as data.

For tests of the kind "nobody did it twice" and "a steady state makes no LIST". The server writes a
line before it answers (mode blocking), so what was answered can be read at once.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        # Heartbeats of nodes would be most of the log; other leases are a gateway's, and wanted.
        {"level": "None", "resources": [{"group": "coordination.k8s.io", "resources": ["leases"]}],
         "namespaces": ["kube-node-lease"]},
        {"level": "None", "nonResourceURLs": ["/readyz*", "/livez*", "/healthz*", "/version"]},
        {"level": "Request", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
        {"level": "Metadata"},
    ],
}  # fmt: skip

POD_NAME = "authentication.kubernetes.io/pod-name"
"""What a token that a kubelet has fetched for a pod says of it."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request as the API server saw it."""

    verb: str
    """get list watch create update patch delete deletecollection"""
    resource: str
    """With its subresource: `pods`, `pods/status`."""
    namespace: str
    name: str
    user: str
    user_agent: str
    pod: str
    """The pod whose token it came with; empty for tokens of no pod."""
    status: int
    """HTTP's; of a watch, as it began."""
    body: Any
    """Of a write, as JSON; else None."""
    uri: str
    at: str
    """When it arrived, RFC 3339 with microseconds."""

    @property
    def is_write(self) -> bool:
        return self.verb not in ("get", "list", "watch")


class Audit:
    """Reads from a mark on: `mark = audit.mark()`, act, `audit.since(mark, user=…)`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def mark(self) -> int:
        """Now, as a place in the log."""
        return self._path.stat().st_size if self._path.exists() else 0

    def since(self, mark: int = 0, **wanted: str) -> list[Call]:
        """The calls after `mark` whose fields are as `wanted` (user="…", verb="list", …)."""
        with self._path.open("rb") as log:
            log.seek(mark)
            # A line may be half written at this moment; then its request is not answered yet.
            lines = [line for line in log if line.endswith(b"\n")]
        calls = (c for c in map(_call, lines) if c is not None)
        return [c for c in calls if all(getattr(c, k) == v for k, v in wanted.items())]


def counted(calls: Iterable[Call]) -> Counter[tuple[str, str]]:
    """How often each (verb, resource) was asked for."""
    return Counter((c.verb, c.resource) for c in calls)


def _call(line: bytes) -> Call | None:
    event = json.loads(line)
    # A watch is told when it begins, anything else when it is answered; each exactly once.
    if event["stage"] != ("ResponseStarted" if event["verb"] == "watch" else "ResponseComplete"):
        return None
    what = event.get("objectRef", {})
    sub = f"/{what['subresource']}" if "subresource" in what else ""
    return Call(
        verb=event["verb"],
        resource=what.get("resource", "") + sub,
        namespace=what.get("namespace", ""),
        name=what.get("name", ""),
        user=event["user"]["username"],
        user_agent=event.get("userAgent", ""),
        pod=next(iter(event["user"].get("extra", {}).get(POD_NAME, ())), ""),
        status=event.get("responseStatus", {}).get("code", 0),
        body=event.get("requestObject"),
        uri=event["requestURI"],
        at=event["requestReceivedTimestamp"],
    )
