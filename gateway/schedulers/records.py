"""What the local scheduler keeps on disk, so that the next gateway finds its replicas again.

STATE/gateway.lock      flock held while a gateway lives; the leash of its replicas
STATE/replicas/ID.json  one replica: its process, template, endpoint
STATE/ready/ID.json     written by the replica once it listens
STATE/logs/MODEL/ID.log its output
STATE/cache/            versions fetched by replicas, shared between them
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gateway.domain.errors import Conflict, Unavailable
from gateway.domain.models import PROTOCOLS
from gateway.domain.replicas import Endpoint
from gateway.schedulers.process import ProcessId

LEASH_FILE = "gateway.lock"
_TAKE_TRIES = 20
_TAKE_WAIT_S = 0.01


class StateLock:
    """One gateway's claim on a state directory; let go by `release` or by the process's end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def take(cls, state: Path) -> StateLock:
        """Claim `state`, making the directory where it is missing.

        Raises:
            Conflict: another gateway uses it (`state_in_use`).
            Unavailable: it cannot be written (`state_unwritable`).
        """
        try:
            state.mkdir(parents=True, exist_ok=True)
            fd = os.open(state / LEASH_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise Unavailable(
                f"The state directory {state} cannot be used: {error.strerror}. "
                "Name another with --state DIR.",
                reason="state_unwritable",
            ) from error
        # Replicas that look at their leash hold it shared for microseconds, so one refusal proves
        # nothing.
        for _ in range(_TAKE_TRIES):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_TAKE_WAIT_S)
            else:
                os.ftruncate(fd, 0)
                os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
                return cls(fd)
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise Conflict(
            f"State directory {state} is in use by another gateway (pid {holder}). Stop that one, "
            "or name another directory with --state DIR.",
            reason="state_in_use",
        )

    def release(self) -> None:
        """Let go. Replicas that still run begin to count their grace."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@dataclass(frozen=True, slots=True)
class ReplicaRecord:
    """One replica on disk."""

    id: str
    model: str
    template: str
    process: ProcessId
    endpoint: Endpoint | None
    ports: tuple[int, int]
    """HTTP and gRPC ports given to a custom command; zeros for servers that choose their own."""
    gpus: tuple[str, ...]
    restarts: int
    started_at: str
    order: int
    after: str | None
    draining: bool = False
    group: str = ""


def write_record(directory: Path, record: ReplicaRecord) -> None:
    """Write a record so that a crash leaves the old one or the new one, never half of it."""
    path = directory / f"{record.id}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(record)))
    temporary.replace(path)


def read_record(path: Path) -> ReplicaRecord | None:
    """Read a record; None for one that this version of the gateway cannot read."""
    try:
        raw = json.loads(path.read_text())
        endpoint = raw["endpoint"]
        return ReplicaRecord(
            id=raw["id"],
            model=raw["model"],
            template=raw["template"],
            process=ProcessId(**raw["process"]),
            endpoint=None if endpoint is None else _endpoint(endpoint),
            ports=(int(raw["ports"][0]), int(raw["ports"][1])),
            gpus=tuple(raw["gpus"]),
            restarts=int(raw["restarts"]),
            started_at=raw["started_at"],
            order=int(raw["order"]),
            after=raw["after"],
            draining=bool(raw["draining"]),
            group=str(raw.get("group", "")),  # an older gateway knew no groups
        )
    except (ValueError, KeyError, TypeError, IndexError):
        return None


def read_ready_file(path: Path) -> Endpoint | None:
    """The addresses that a replica wrote; None while it has not.

    Raises:
        ValueError: the file is there and says something else.
    """
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    if not isinstance(raw, dict) or not isinstance(raw.get("http"), str):
        raise ValueError(f"{path.name} has no addresses")
    grpc = str(raw.get("grpc", ""))
    return _endpoint({"control": "", **raw, "grpc": grpc})


def _endpoint(raw: Mapping[str, Any]) -> Endpoint:
    speaks = raw.get("speaks") or ()
    return Endpoint(
        http=raw["http"],
        grpc=raw["grpc"],
        control=str(raw["control"] or raw["grpc"]),
        status_http=str(raw.get("status_http") or ""),
        speaks=tuple(p for p in PROTOCOLS if p in speaks),
    )
