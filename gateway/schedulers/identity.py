"""Which gateway this is, and on which machine its local replicas listen."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

_FILE = "gateway.id"


def gateway_id(state: Path) -> str:
    """The id of the gateway with this state directory, kept there: after a restart it is still the
    same one, takes its lease back at once, and its replicas are its own.

    Call it while the directory is locked. Unreadable, it is made anew.
    """
    path = state / _FILE
    try:
        known = path.read_text().strip()
    except OSError:
        known = ""
    if known:
        return known
    made = f"{socket.gethostname()[:64]}-{secrets.token_hex(4)}"
    partial = path.with_suffix(".partial")
    partial.write_text(made + "\n")
    partial.replace(path)
    return made


def told_to_others(address: str) -> str:
    """`host:port` of a listener as the other gateways may know it. One on every address is told by
    the name of its machine, which on Kubernetes is the pod's: 0.0.0.0 would be whoever reads it."""
    host, _, port = address.rpartition(":")
    return f"{socket.gethostname()}:{port}" if host in ("0.0.0.0", "[::]") else address


def machine_id() -> str:
    """The same for all programs that reach each other by 127.0.0.1: one boot of one machine, and
    one network namespace of it."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{os.stat('/proc/self/ns/net').st_ino}"
