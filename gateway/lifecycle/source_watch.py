"""Look at one model's source again and again; keep what was last known through every failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from random import Random

from gateway.core.versions import Offered
from gateway.domain.errors import GatewayError
from gateway.domain.names import Version
from gateway.lifecycle.settings import LifecycleSettings
from gateway.ports import Listing, PublishedVersion, VersionSource


def utc_stamp() -> str:
    """Now, for people."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class SourceWatch:
    """One model's repository. `run` is its loop; `news` is called when something changed."""

    def __init__(
        self,
        name: str,
        uri: str,
        source: VersionSource,
        settings: LifecycleSettings,
        rng: Random,
        news: Callable[[], None],
        on_error: Callable[[BaseException], None],
        on_success: Callable[[], None] = lambda: None,
    ) -> None:
        self.uri = uri
        self.reason = ""
        """Why it cannot be read now, or shows nothing."""
        self.failing_since = ""
        self.looks = 0
        """How often it was looked at, successfully or not."""
        self._name = name
        self._source = source
        self._settings = settings
        self._rng = rng
        self._news = news
        self._on_error = on_error
        self._on_success = on_success
        self._poked = asyncio.Event()
        self._previous: Listing | None = None
        self._known: Mapping[Version, PublishedVersion] = {}
        self._failures = 0

    def __repr__(self) -> str:
        return f"SourceWatch({self.uri}, versions={sorted(self._known)}, reason={self.reason!r})"

    @property
    def shown_versions(self) -> int:
        """How many versions that are neither loaded nor wanted are shown."""
        return self._settings.shown_versions

    @property
    def published(self) -> Mapping[Version, PublishedVersion]:
        """The last listing that showed anything."""
        return self._known

    def offered(self, *, require_manifest: bool) -> Mapping[Version, Offered] | None:
        """What may be loaded; None until something was seen."""
        if not self._known:
            return None
        return {
            v: Offered(p.fingerprint, p.settled)
            for v, p in self._known.items()
            if p.has_manifest or not require_manifest
        }

    def poke(self) -> None:
        """Look at once."""
        self._poked.set()

    async def run(self) -> None:
        """Look for ever."""
        while True:
            self._poked.clear()
            before = (self._known, self.reason, self.looks > 0)
            await self._look()
            self.looks += 1
            if before != (self._known, self.reason, True):
                self._news()
            try:
                async with asyncio.timeout(self._pause_s()):
                    await self._poked.wait()
            except TimeoutError:
                continue

    async def _look(self) -> None:
        try:
            listing = await self._source.look(self.uri, self._previous)
        except GatewayError as error:
            self._failed(error.message)
        except Exception as error:  # noqa: BLE001 - this is the tick of a reconcile loop
            # A bug in reading one repository must not end the loops of all other models.
            self._on_error(error)
            self._failed(
                f"reading it failed in an unexpected way ({type(error).__name__}: {error})"
            )
        else:
            self._previous = listing
            self._failures = 0
            self._on_success()
            if listing.versions:
                self._known = listing.versions
                self.reason, self.failing_since = "", ""
            elif self._known:
                self._say("shows no versions any more; those known stay loaded")
            else:
                self._say(f"has no versions yet; put one at {self.uri.rstrip('/')}/1/")

    def _failed(self, why: str) -> None:
        self._failures += 1
        self._say(why)

    def _say(self, why: str) -> None:
        if not self.reason:
            self.failing_since = utc_stamp()
        self.reason = why

    def _pause_s(self) -> float:
        settings = self._settings
        if self._failures:
            # Full jitter: sources fail for all models at once, and come back better for one by one.
            top = min(
                settings.last_retry_s, settings.first_retry_s * 2.0 ** min(self._failures - 1, 16)
            )
            return top * (0.5 + 0.5 * self._rng.random())
        spread = settings.poll_jitter_ratio * (2 * self._rng.random() - 1)
        return settings.poll_s * (1 + spread)
