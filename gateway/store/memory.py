"""The store without a disk: the fake, for tests of others; it passes the same conformance suite."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from gateway.domain.errors import Conflict, NotFound
from gateway.domain.models import ModelRecord, ModelSpec
from gateway.domain.names import Version
from gateway.domain.rollouts import Rollout
from gateway.domain.templates import Template
from gateway.ports import Event
from gateway.store.encoding import (
    rollout_from_json,
    rollout_to_json,
    spec_from_json,
    spec_to_json,
    template_from_json,
    template_to_json,
)


def utc_now() -> datetime:
    """The wall clock, for time stamps that people read."""
    return datetime.now(UTC)


def stamp(at: datetime) -> str:
    """RFC 3339 in UTC, to the millisecond, so that text order is time order."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def model_unknown(name: str) -> NotFound:
    """The one way to say it."""
    return NotFound(
        f"There is no model {name!r}. `gateway get models` lists those there are.",
        reason="model_unknown",
    )


def model_exists(name: str) -> Conflict:
    """Somebody created it in between."""
    return Conflict(
        f"Model {name!r} exists already; read it and name its generation to change it.",
        reason="model_exists",
    )


def stale(name: str, expected: int, found: int) -> Conflict:
    """The writer's knowledge is old."""
    return Conflict(
        f"Model {name!r} has changed since it was read: it is at generation {found}, not "
        f"{expected}. Read it again and repeat the change.",
        reason="stale_generation",
    )


class MemoryStore:
    """ports.Store in dictionaries. Specs go through JSON: what cannot be stored fails here too."""

    def __init__(self, *, max_events: int = 10_000, now: Callable[[], datetime] = utc_now) -> None:
        self._models: dict[str, ModelRecord] = {}
        self._past: dict[str, int] = {}
        self._events: deque[Event] = deque(maxlen=max_events)
        self._seq = 0
        self._now = now

    def __repr__(self) -> str:
        return f"MemoryStore(models={sorted(self._models)}, events={len(self._events)})"

    async def models(self) -> Sequence[ModelRecord]:
        """All models, by name."""
        return [self._models[n] for n in sorted(self._models)]

    async def put(self, spec: ModelSpec, expected_generation: int | None) -> ModelRecord:
        """See ports.Store."""
        at = stamp(self._now())
        spec = spec_from_json(spec_to_json(spec))
        old = self._models.get(spec.name)
        if expected_generation is None:
            if old is not None:
                raise model_exists(spec.name)
            first = self._past.get(spec.name, 0) + 1
            record = ModelRecord(spec, first, created_at=at, updated_at=at)
        else:
            if old is None:
                raise stale(spec.name, expected_generation, 0)
            if old.generation != expected_generation:
                raise stale(spec.name, expected_generation, old.generation)
            record = replace(old, spec=spec, generation=old.generation + 1, updated_at=at)
        self._models[spec.name] = record
        return record

    async def set_live(self, name: str, version: Version | None) -> None:
        """See ports.Store."""
        if name not in self._models:
            raise model_unknown(name)
        self._models[name] = replace(self._models[name], live_version=version)

    async def set_running(self, name: str, running: Template) -> None:
        """See ports.Store."""
        if name not in self._models:
            raise model_unknown(name)
        kept = template_from_json(template_to_json(running))
        self._models[name] = replace(self._models[name], running=kept)

    async def set_rollout(self, name: str, rollout: Rollout | None) -> None:
        """See ports.Store."""
        if name not in self._models:
            raise model_unknown(name)
        kept = rollout_from_json(rollout_to_json(rollout))
        self._models[name] = replace(self._models[name], rollout=kept)

    async def delete(self, name: str, expected_generation: int | None = None) -> None:
        """See ports.Store."""
        old = self._models.get(name)
        if old is None:
            raise model_unknown(name)
        if expected_generation is not None and old.generation != expected_generation:
            raise stale(name, expected_generation, old.generation)
        self._past[name] = old.generation
        del self._models[name]

    async def append(self, event: Event) -> Event:
        """See ports.Store."""
        self._seq += 1
        kept = replace(event, seq=self._seq, at=stamp(self._now()))
        self._events.append(kept)
        return kept

    async def events(
        self, *, after: int = 0, model: str | None = None, limit: int = 1000
    ) -> Sequence[Event]:
        """See ports.Store."""
        found = [e for e in self._events if e.seq > after and model in (None, e.model)]
        return found[:limit] if after else found[-limit:] if limit else []

    async def aclose(self) -> None:
        """Nothing to close."""
