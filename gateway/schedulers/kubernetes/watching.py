"""All objects of one kind, kept as they are now: one list, then a watch for ever.

A watch that ends or breaks is begun anew where it left off, after a jittered wait if it broke. Only
when the server no longer knows that version is everything listed again. While nothing can be had,
what was known last stays known: an API server that is away takes no replica out of service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from random import Random
from typing import Any, Generic, TypeVar

from gateway.domain.errors import GatewayError, InvalidRequest, Unavailable
from gateway.schedulers.kubernetes.api import Api, Gone, Resource
from gateway.schedulers.kubernetes.settings import KubernetesSettings
from gateway.telemetry import log

T = TypeVar("T")

_TOO_MANY_TRIES = 5
"""Watches in a row that fail with an answer from the same version before all is listed anew: an
etcd that was restored from a backup is behind what we know, and says so in several ways."""


class Watched(Generic[T]):
    """What there is of one resource. `known` maps names to what `read` makes of the objects.

    `on_change` is called with the name, what it was, and what it is now (None: not there).
    """

    def __init__(
        self,
        api: Api,
        resource: Resource,
        query: Mapping[str, str],
        read: Callable[[Mapping[str, Any]], T],
        on_change: Callable[[str, T | None, T | None], None],
        settings: KubernetesSettings,
        rng: Random,
    ) -> None:
        self.known: dict[str, T] = {}
        self.trouble = ""
        """Why nothing new is heard at the moment; empty when all is well."""
        self._api = api
        self._resource = resource
        self._query = dict(query)
        self._read = read
        self._on_change = on_change
        self._settings = settings
        self._rng = rng
        self._version = ""
        self._has_listed = False

    def __repr__(self) -> str:
        trouble = f", {self.trouble}" if self.trouble else ""
        return f"Watched({self._resource.name}, {len(self.known)}, at {self._version}{trouble})"

    async def start(self) -> None:
        """List once. Raises what the API server answers."""
        found, version = await self._api.list(self._resource, self._query)
        names = set()
        for shown in found:
            names.add(self._take(shown))
        for name in set(self.known) - names:
            self._drop(name)
        self._version = version
        self._has_listed = True
        self._show_trouble("")

    @property
    def is_synced(self) -> bool:
        """Whether all there is was heard of at least once."""
        return self._has_listed

    async def run(self) -> None:
        """Watch for ever."""
        failures = 0
        while True:
            try:
                if not self._version:
                    await self.start()
                heard = await self._watch()
                self._show_trouble("")
                if heard:
                    failures = 0
                    continue
                failures += 1  # one that only ever ends at once must not be asked for in a loop
            except Gone:
                self._version = ""
                failures += 1
                if failures == 1:
                    continue
            except GatewayError as error:
                failures += 1
                self._show_trouble(error.message)
                if _is_about_the_version(error, failures):
                    self._version = ""
            await asyncio.sleep(self._wait_s(failures))

    async def _watch(self) -> bool:
        """One watch, to its end; whether anything was heard in it."""
        heard = False
        events = self._api.watch(self._resource, self._query, self._version)
        async with aclosing(events):
            async for kind, shown in events:
                heard = True
                self._show_trouble("")
                if kind == "DELETED":
                    self._drop(shown["metadata"]["name"])
                elif kind != "BOOKMARK":
                    self._take(shown)
                self._version = shown["metadata"]["resourceVersion"]
        return heard

    def _take(self, shown: Mapping[str, Any]) -> str:
        name = str(shown["metadata"]["name"])
        before, now = self.known.get(name), self._read(shown)
        if before != now:
            self.known[name] = now
            self._on_change(name, before, now)
        return name

    def _drop(self, name: str) -> None:
        before = self.known.pop(name, None)
        if before is not None:
            self._on_change(name, before, None)

    def _show_trouble(self, why: str) -> None:
        """Log flips only."""
        if bool(why) != bool(self.trouble):
            resource = self._resource.name
            if why:
                log.warning("kubernetes.watch_broken", resource=resource, cause=why)
            else:
                log.event("kubernetes.watch_resumed", resource=resource)
        self.trouble = why

    def _wait_s(self, failures: int) -> float:
        settings = self._settings
        full = min(settings.last_retry_s, settings.first_retry_s * 2.0 ** min(failures - 1, 16))
        return full * (0.5 + 0.5 * self._rng.random())


def _is_about_the_version(error: GatewayError, failures: int) -> bool:
    """Whether watching from the version that is known may be what cannot be done."""
    if isinstance(error, InvalidRequest):
        return True
    has_answered = error.reason != "kubernetes_unreachable"
    return has_answered and isinstance(error, Unavailable) and failures >= _TOO_MANY_TRIES
