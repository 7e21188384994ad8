"""The control API's shapes of traffic, see schema.py."""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct

from gateway.control.schema_fields import Name, doc


class VersionTraffic(Struct):
    """What there was of one version since the gateway started."""

    version: Annotated[
        int | None,
        doc("null: answered by none; refused, or failed before a version had been asked.", 3),
    ]
    requests: Annotated[int, doc("Answered, whatever was said.", 1200)]
    errors: Annotated[int, doc("Of these, answers that say that something failed here.", 2)]
    latency_counts: Annotated[
        list[int],
        doc("Answers by how long they took: one number for each of `bounds_s`, and the rest."),
    ]


class ModelTraffic(Struct):
    """What there was of one model since the gateway started, and what there is now."""

    model: Name
    in_flight: Annotated[int, doc("Requests let in and not answered yet.", 12)]
    queued: Annotated[int, doc("Of these, how many wait for their turn.", 4)]
    limit: Annotated[int, doc("How many may be with replicas at once; it is learnt.", 32)]
    shed: Annotated[int, doc("Requests refused without having been sent.", 0)]
    versions: list[VersionTraffic]


class Traffic(Struct):
    """Counts since the gateway started, over all of its processes, to be subtracted from a later
    answer; and what is under way now."""

    at_s: Annotated[float, doc("When this was read, on a clock of the gateway's own.", 1234.5)]
    bounds_s: Annotated[list[float], doc("Upper bounds of the latencies' buckets.")]
    items: list[ModelTraffic]
