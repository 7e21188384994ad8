"""The Kubernetes API in a few plain calls: JSON in, JSON out, no client library.

Tests look at the cluster through this and not through the client that the product uses, so that a
mistake there cannot hide itself. Safe from any thread; connections are kept and reused.
"""

from __future__ import annotations

import builtins
import http.client
import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, sleep
from types import MappingProxyType
from typing import Any
from urllib.parse import urlencode, urlsplit

Json = dict[str, Any]

GROUPS = {
    "/api/v1": "nodes namespaces pods services secrets configmaps events serviceaccounts"
    " resourcequotas limitranges",
    "/apis/apps/v1": "deployments replicasets statefulsets daemonsets",
    "/apis/policy/v1": "poddisruptionbudgets",
    "/apis/discovery.k8s.io/v1": "endpointslices",
    "/apis/coordination.k8s.io/v1": "leases",
    "/apis/networking.k8s.io/v1": "networkpolicies",
    "/apis/rbac.authorization.k8s.io/v1": "roles rolebindings clusterroles clusterrolebindings",
    "/apis/batch/v1": "jobs",
}
PREFIX = {kind: prefix for prefix, kinds in GROUPS.items() for kind in kinds.split()}

PATCHES = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",
}


class ApiError(Exception):
    """The API server refused: `status` is HTTP's, `reason` and the text are the server's own."""

    def __init__(self, status: int, answer: Json) -> None:
        super().__init__(f"{status} {answer.get('reason')}: {answer.get('message')}")
        self.status = status
        self.reason = str(answer.get("reason"))


class Api:
    """One identity's view of the API server at `url`."""

    def __init__(self, url: str, token: str, ca: Path, user_agent: str = "tests") -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._where = (parts.hostname, parts.port or 443)
        self._headers = {"authorization": f"Bearer {token}", "user-agent": user_agent}
        self._tls = ssl.create_default_context(cafile=str(ca))
        self._idle: list[http.client.HTTPSConnection] = []

    def get(self, kind: str, namespace: str | None, name: str, sub: str = "") -> Json:
        """One object."""
        return self.call("GET", path_of(kind, namespace, name, sub))

    def list(self, kind: str, namespace: str | None = None, **query: str) -> list[Json]:
        """All objects of a kind; `labelSelector=…` and the like narrow it."""
        return list(self.call("GET", path_of(kind, namespace), **query)["items"])

    def create(self, kind: str, namespace: str | None, body: Json) -> Json:
        """Make an object; apiVersion and kind may be left out."""
        return self.call("POST", path_of(kind, namespace), body)

    def patch(
        self,
        kind: str,
        namespace: str | None,
        name: str,
        body: Any,
        *,
        sub: str = "",
        how: str = "merge",
    ) -> Json:
        """Change an object; `how` is one of PATCHES."""
        path = path_of(kind, namespace, name, sub)
        return self.call("PATCH", path, body, content_type=PATCHES[how])

    def delete(
        self, kind: str, namespace: str | None, name: str, *, grace_s: int | None = None
    ) -> None:
        """Ask for an object's deletion; one that is gone already is no error."""
        options = {} if grace_s is None else {"gracePeriodSeconds": grace_s}
        with ignoring(404):
            self.call("DELETE", path_of(kind, namespace, name), options)

    def events(self, namespace: str, name: str) -> builtins.list[str]:
        """What was said about one object: "reason: message", the oldest first."""
        found = self.list("events", namespace, fieldSelector=f"involvedObject.name={name}")
        found.sort(key=lambda e: e["metadata"]["creationTimestamp"])
        return [f"{e.get('reason')}: {e.get('message')}" for e in found]

    def log(self, namespace: str, pod: str, **query: str) -> str:
        """What a pod's container has written."""
        return self.text("GET", path_of("pods", namespace, pod, "log"), None, query)

    def evict(self, namespace: str, pod: str) -> None:
        """Ask for an eviction, as a drain does. 429 while a disruption budget forbids it."""
        name = {"metadata": {"name": pod, "namespace": namespace}}
        body = {"apiVersion": "policy/v1", "kind": "Eviction", **name}
        self.call("POST", path_of("pods", namespace, pod, "eviction"), body)

    def drain(self, node: str, longest_s: float = 120) -> builtins.list[str]:
        """Cordon a node and evict its pods as `kubectl drain` does; return the pods' names.

        Waits until they are gone. Budgets are respected: a refused eviction is asked for again.
        """
        self.patch("nodes", None, node, {"spec": {"unschedulable": True}})
        give_up = perf_counter() + longest_s
        seen: dict[str, str] = {}
        while on_node := self.list("pods", fieldSelector=f"spec.nodeName={node}"):
            for pod in on_node:
                meta = pod["metadata"]
                seen[meta["uid"]] = meta["name"]
                if "deletionTimestamp" not in meta:
                    with ignoring(404, 429):
                        self.evict(meta["namespace"], meta["name"])
            if perf_counter() > give_up:
                left = [p["metadata"]["name"] for p in on_node]
                raise TimeoutError(f"not drained in {longest_s} s; left on {node}: {left}")
            sleep(0.1)
        return list(seen.values())

    def watch(
        self, kind: str, version: str, namespace: str | None = None, timeout_s: int = 300
    ) -> Iterator[Json]:
        """Changes after resource version `version`, on a connection of its own, until it ends.

        Raises:
            ApiError: 410 when `version` is too old.
        """
        query = {"watch": "true", "resourceVersion": version, "timeoutSeconds": str(timeout_s)}
        query["allowWatchBookmarks"] = "true"
        connection = self._connect(timeout_s + 10.0)
        try:
            path = f"{path_of(kind, namespace)}?{urlencode(query)}"
            connection.request("GET", path, headers=self._headers)
            answer = connection.getresponse()
            if answer.status != 200:
                raise ApiError(answer.status, _status_of(answer.read()))
            while line := answer.readline():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise ApiError(int(event["object"].get("code", 500)), event["object"])
                yield event
        finally:
            connection.close()

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
        **query: str,
    ) -> Json:
        """Any request; the answer's JSON.

        Raises:
            ApiError: the server answered with an error.
            OSError: it could not be reached.
        """
        return dict(json.loads(self.text(method, path, body, query, content_type)))

    def text(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Mapping[str, str] = MappingProxyType({}),
        content_type: str = "application/json",
    ) -> str:
        """As `call`, for answers that are no JSON."""
        target = f"{path}?{urlencode(query)}" if query else path
        data = None if body is None else json.dumps(body).encode()
        headers = {**self._headers, "content-type": content_type}
        status, answer = self._exchange(method, target, data, headers)
        if status >= 400:
            raise ApiError(status, _status_of(answer))
        return answer.decode(errors="replace")

    def _exchange(
        self, method: str, target: str, data: bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        kept = self._idle.pop() if self._idle else None
        connection = kept or self._connect(30)
        try:
            connection.request(method, target, data, headers)
            answer = connection.getresponse()
            status, read = answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self.close()  # the others have most likely died with it
            if kept is not None and not isinstance(error, TimeoutError):
                return self._exchange(method, target, data, headers)
            raise ConnectionError(f"API server: {error or type(error).__name__}") from error
        self._idle.append(connection)
        return status, read

    def close(self) -> None:
        """Close the idle connections; the next call opens another."""
        while self._idle:
            self._idle.pop().close()

    def _connect(self, timeout_s: float) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(*self._where, timeout=timeout_s, context=self._tls)


@contextmanager
def ignoring(*statuses: int) -> Iterator[None]:
    """Go on after an API error with one of these HTTP statuses."""
    try:
        yield
    except ApiError as error:
        if error.status not in statuses:
            raise


def path_of(kind: str, namespace: str | None = None, name: str = "", sub: str = "") -> str:
    """The URL path of a kind's objects, of one object, or of its subresource."""
    inside = f"/namespaces/{namespace}" if namespace else ""
    return "/".join(p for p in (f"{PREFIX[kind]}{inside}/{kind}", name, sub) if p)


def _status_of(body: bytes) -> Json:
    try:
        return dict(json.loads(body))
    except ValueError:
        return {"reason": "NotJson", "message": body[:500].decode(errors="replace")}
