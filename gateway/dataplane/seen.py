"""What is written down of each request: its metrics, its access line, its timing."""

from __future__ import annotations

import re
from time import perf_counter
from typing import TYPE_CHECKING

from gateway.telemetry.log import log
from gateway.telemetry.metrics import UNKNOWN_MODEL
from gateway.wire.fields import Fields, Pairs, hpack_int

if TYPE_CHECKING:
    from gateway.dataplane.forwarding import Forwarding
    from gateway.dataplane.plane import Dataplane

VERSION = "x-gateway-version"
"""Header and trailer: the version that answered."""

SERVER_TIMING = "server-timing"

_TIMING_H2 = b"\0" + hpack_int(len(SERVER_TIMING), 7) + SERVER_TIMING.encode()
"""The name as HPACK: a literal that is not indexed, as fields.hpack_field writes it."""

_MAX_VERSIONS = 4096
_versions: dict[int | None, Fields] = {}


def version_fields(version: int | None) -> Fields:
    """The field that names the version, the same object for the same one."""
    found = _versions.get(version)
    if found is None:
        if len(_versions) >= _MAX_VERSIONS:
            _versions.clear()
        found = _versions[version] = Fields(((VERSION, str(version)),))
    return found


Spent = tuple[float, float]
"""What a replica says of one answer: seconds in its queue, and in its model."""

_KIT_TIMING = re.compile(r"queue;dur=([0-9.]+), compute;dur=([0-9.]+)")
"""As servers.kit.timing writes it. Others name what they like, and are left one part."""


def spent_in(pairs: Pairs) -> Spent | None:
    """What the replica's fields say of its own time; None where they do not."""
    for name, value in pairs:
        if name == SERVER_TIMING:
            found = _KIT_TIMING.fullmatch(value)
            return found and (float(found[1]) / 1e3, float(found[2]) / 1e3)
    return None


class Timing(Fields):
    """`server-timing` of one answer, in milliseconds, as the header's own specification wants them.

    `queue`: until the first call, so reading the request and waiting for its turn; `upstream`: in
    calls; `gateway`: the rest. Where the replica says how it spent its time, `upstream` is three
    parts instead: `upstream-queue` and `upstream-compute` are its own words, `upstream-wire` is the
    rest of the calls: the way there and back, parsing, and calls that failed. The parts add up to
    the time from the request's first byte to the answer's. What no replica was asked for (`asked`
    is None, or has not been sent) spent nothing upstream.

    Written without the checks and memory that Fields has for values that come from elsewhere.
    """

    __slots__ = ("_text",)

    def __init__(self, asked: Forwarding | None, begun: float, spent: Spent | None = None) -> None:
        queue_s = upstream_s = 0.0
        if asked is not None:
            upstream_s = asked.upstream_so_far_s()
            queue_s = (asked.sent or perf_counter()) - begun
        gateway_s = max(0.0, perf_counter() - begun - queue_s - upstream_s)
        if spent is None:
            self._text = b"queue;dur=%.3f, upstream;dur=%.3f, gateway;dur=%.3f" % (
                queue_s * 1e3,
                upstream_s * 1e3,
                gateway_s * 1e3,
            )
        else:
            waited_s, computed_s = spent
            self._text = (
                b"queue;dur=%.3f, upstream-queue;dur=%.3f, upstream-compute;dur=%.3f, "
                b"upstream-wire;dur=%.3f, gateway;dur=%.3f"
            ) % (
                queue_s * 1e3,
                waited_s * 1e3,
                computed_s * 1e3,
                max(0.0, upstream_s - waited_s - computed_s) * 1e3,
                gateway_s * 1e3,
            )

    @property
    def pairs(self) -> Pairs:
        """See Fields."""
        return ((SERVER_TIMING, self._text.decode()),)

    @property
    def h1(self) -> bytes:
        """See Fields."""
        return b"server-timing: %b\r\n" % self._text

    @property
    def h2(self) -> bytes:
        """See Fields."""
        return _TIMING_H2 + hpack_int(len(self._text), 7) + self._text


class Seen:
    """One request, from its first byte to its answer."""

    __slots__ = ("asked", "begun", "is_finished", "model", "plane", "protocol", "what")

    def __init__(self, plane: Dataplane, protocol: str, what: str) -> None:
        self.plane = plane
        self.protocol = protocol
        self.what = what
        """Path or method, for the access line."""
        self.begun = perf_counter()
        self.model = ""
        self.asked: Forwarding | None = None
        self.is_finished = False

    def finish(self, code: str, reason: str = "") -> None:
        """Count it by the status code that the caller sees (`499` or `CANCELLED` where it left
        before), and write its line where that is asked for."""
        self.is_finished = True
        plane, asked = self.plane, self.asked
        self.asked = None  # which refers to its caller, who refers to this
        took_s = perf_counter() - self.begun
        version = "" if asked is None or asked.answered_by is None else str(asked.answered_by)
        model = self.model if self.model in plane.table.models else UNKNOWN_MODEL
        plane.metrics.answered(model, version, self.protocol, code, took_s)
        if asked is not None and asked.place is not None:
            plane.split.ended(model, asked.asked, asked.place, asked.upstream_s, code)
        if plane.settings.access_log:
            log.event(
                "request.answered",
                protocol=self.protocol,
                what=self.what,
                model=self.model,
                version=version,
                code=code,
                reason=reason,
                took_s=round(took_s, 6),
                attempts=_attempts(asked),
            )


def _attempts(asked: Forwarding | None) -> int:
    """Calls to replicas: those that failed, and the one that answered."""
    if asked is None:
        return 0
    return len(asked.attempts) + (asked.answered_by is not None)
