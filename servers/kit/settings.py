"""What a model server can be told, with the reason for each default."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from gateway.codecs.oip_errors import Flavour

MIB = 1024 * 1024


def _default_threads() -> int:
    return max(1, min(2, os.cpu_count() or 1))


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """How rows of separate requests are joined into one run."""

    max_rows: int = 32
    """Rows per run at most. 1 turns joining off."""

    delay_s: float = 0.0
    """How long the first row waits for company. 0 joins only what is queued already: that costs a
    lone caller nothing and still fills batches under load."""

    queue_rows: int = 1024
    """Rows that may wait per version; more get RESOURCE_EXHAUSTED. 32 full default batches: what
    waits behind more than that would in most cases miss its deadline anyway."""

    here_s: float = 0.0002
    """Runs that take less than this are made on the event loop's own thread, once 32 of their form
    have shown it (`servers.kit.pace`); 0 makes all on worker threads. A hop there and back costs
    more CPU than such a run, and 200 µs hold nobody up: decoding a request may take as long. With
    a `delay_s` rows wait for company, so nothing is run at once."""


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """How versions come and go."""

    threads: int = 2
    """Threads that load and unload. Their own, so that loading never takes a serving thread; two,
    so that one model that loads for minutes does not hold up another's rollback."""

    first_retry_s: float = 1.0
    """Wait before a failed version is tried again; doubles each time."""

    max_retry_s: float = 60.0
    """Longest such wait. TensorFlow Serving waits a minute, then gives up for good; a source that
    comes back after an hour should not need a person."""

    poll_s: float = 5.0
    """How often `latest` and `all` look at their source for new versions."""

    keep_ended: int = 32
    """Ended versions that each model's status still shows, for people who ask what happened."""

    drain_s: float = 30.0
    """How long an unloading version waits for its requests before those still queued are refused.
    A run that is under way is always waited for: no framework can be interrupted inside one."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """One model server process."""

    http: str = "127.0.0.1:0"
    grpc: str = "127.0.0.1:0"
    ready_file: Path | None = None
    cache_dir: Path | None = None
    """Where versions are fetched to. None: a folder of its own in the user's cache."""
    cache_bytes: int = 10 * 1024 * MIB
    """Bound of the cache; versions in use are never evicted."""
    batch: BatchSettings = field(default_factory=BatchSettings)
    load: LoadSettings = field(default_factory=LoadSettings)
    threads: int = field(default_factory=_default_threads)
    """Runs at once. Two keep the cores busy while one of them copies; more only queue inside the
    framework, which has threads of its own."""
    models: tuple[tuple[str, str], ...] = ()
    """(name, source URI) served from the start, latest version."""
    leash: Path | None = None
    leash_grace_s: float = 30.0
    """Outlives a restart of the gateway, which adopts its replicas, but not its death."""
    leave_s: float = 0.0
    """How long it goes on answering after SIGTERM at most, for callers who have not heard that it
    goes; until nobody has asked for `quiet_s`. 0: not at all, where whoever sends it has told them
    before, as the local scheduler does."""
    quiet_s: float = 3.0
    """Gateways hear of a pod's end within milliseconds; a second lost on a busy machine is none."""
    drain_s: float = 30.0
    """Longest wait for requests in flight after SIGTERM."""
    max_body: int = 128 * MIB
    """Bound of a request and of an answer, also after decompression."""
    in_flight_limit: int = 4096
    """Inference requests at once; each holds its body, decoded and not. Above what one server
    answers in a second, so only a stuck model or a flood meets it."""
    timeout_s: float = 30.0
    """Deadline of a request that brings none: TensorFlow Serving's own REST default."""
    offload_bytes: int = 64 * 1024
    """Bodies above this are decoded and encoded on a thread. 64 KiB of JSON takes about a
    millisecond; a hop to a thread costs a tenth of one."""
    v2_flavour: Flavour = Flavour.TRITON
    """Whose habits V2 answers have where Triton and KServe differ: bodies of health and load,
    words and codes for a model that is not there. Triton, whose client library is the stricter."""
    log_format: str = "text"
