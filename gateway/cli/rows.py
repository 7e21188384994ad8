"""Which of an object's values a table shows, for each noun. JSON shows them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.cli.output import bytes_text

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Noun:
    """One kind of object that `gateway get` lists."""

    plural: str
    columns: tuple[str, ...]
    row: Callable[[Object], tuple[Any, ...]]
    identity: Callable[[Object], tuple[Any, ...]]
    """What stays the same while the object changes."""
    fold: str
    """The column that takes what width is left."""


def _model(m: Object) -> tuple[Any, ...]:
    ready = f"{m['ready_replicas']}/{m['replicas']}"
    return m["name"], m["backend"], m["state"], ready, m["live_version"], m["source"]


def _version(v: Object) -> tuple[Any, ...]:
    ready = f"{v['ready_replicas']}/{v['total_replicas']}"
    return v["model"], v["version"], v["state"], v["live"], v["labels"], ready, _on_its_way(v)


def _on_its_way(v: Object) -> str:
    if v["reason"]:
        return str(v["reason"])
    if v["phase"] == "fetching" and v["total_bytes"]:
        return f"fetching {bytes_text(v['fetched_bytes'] or 0)} of {bytes_text(v['total_bytes'])}"
    return str(v["phase"] or "")


def _replica(r: Object) -> tuple[Any, ...]:
    state = r["state"]
    detail = r["reason"] or (f"GPU {','.join(r['gpus'])}" if r["gpus"] else "")
    if r.get("standing", "good") != "good":  # a gateway of an older version says nothing
        state = r["standing"] if state == "ready" else state
        detail = detail or r["standing_reason"]
    if r.get("group", "stable") != "stable":
        detail = ": ".join(filter(None, (r["group"], detail)))
    return r["id"], state, r["pid"], r["endpoint"], r["versions"], r["restarts"], detail


def _rollout(r: Object) -> tuple[Any, ...]:
    why = r["verdict_reason"] if r["phase"] in ("progressing", "paused") else r["reason"]
    return r["model"], r["version"], r["phase"], f"{r['weight']:.0%}", r["verdict"], why or ""


def _event(e: Object) -> tuple[Any, ...]:
    return clock_time(e["at"]), e["type"], e["model"], e["message"]


def clock_time(moment: str) -> str:
    """`2026-11-23 09:30:00` of an RFC 3339 moment in UTC."""
    return moment[:19].replace("T", " ")


NOUNS: Mapping[str, Noun] = {
    noun.plural: noun
    for noun in (
        Noun(
            "models",
            ("name", "backend", "state", "ready", "live", "source"),
            _model,
            lambda m: (m["name"],),
            "source",
        ),
        Noun(
            "versions",
            ("model", "version", "state", "live", "labels", "ready", "detail"),
            _version,
            lambda v: (v["model"], v["version"]),
            "detail",
        ),
        Noun(
            "replicas",
            ("id", "state", "pid", "endpoint", "versions", "restarts", "detail"),
            _replica,
            lambda r: (r["id"],),
            "detail",
        ),
        Noun(
            "rollouts",
            ("model", "version", "phase", "weight", "verdict", "detail"),
            _rollout,
            lambda r: (r["model"], r["version"]),
            "detail",
        ),
        Noun(
            "events",
            ("at", "type", "model", "message"),
            _event,
            lambda e: (e["seq"],),
            "message",
        ),
    )
}


def noun_named(word: str) -> Noun | None:
    """`model`, `models` → the same noun."""
    return NOUNS.get(word) or NOUNS.get(f"{word}s")
