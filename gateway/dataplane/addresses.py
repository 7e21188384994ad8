"""Taking the ports, with words that help when they are taken."""

from __future__ import annotations

import errno
import socket

from gateway.domain.errors import Conflict, InvalidRequest
from gateway.wire.listener import BACKLOG


def listening(address: str, flag: str, count: int = 1) -> list[socket.socket]:
    """`count` TCP sockets that listen on `host:port`; port 0 takes a free one, the same for all.

    With several, the kernel spreads connections over them (SO_REUSEPORT), each with a queue of its
    own. A connection waits in its queue for as long as anybody holds the socket, so whoever wants
    to lose none keeps it.

    Raises:
        Conflict: somebody listens there already (`port_in_use`).
        InvalidRequest: the host is none of this machine's, or the port may not be bound
            (`bad_address`).
    """
    if count == 1:
        return [_listening(address, address, flag, is_shared=False)]
    if not address.endswith(":0"):
        # SO_REUSEPORT alone would share the port with another program of the same user.
        _listening(address, address, flag, is_shared=False).close()
    made = [_listening(address, address, flag, is_shared=True)]
    try:
        bound = shown(made[0])
        made += [_listening(bound, address, flag, is_shared=True) for _ in range(count - 1)]
    except BaseException:
        close_all(made)
        raise
    return made


def shown(sock: socket.socket) -> str:
    """`host:port` of a bound socket."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def close_all(sockets: list[socket.socket]) -> None:
    """Let the ports go."""
    for sock in sockets:
        sock.close()


def _listening(address: str, said: str, flag: str, *, is_shared: bool) -> socket.socket:
    """One socket on `address`, which the operator has `said` with `flag`."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, ValueError) as error:
        raise InvalidRequest(
            f"{flag} {said} is no address of this machine: {error}", reason="bad_address"
        ) from error
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(place)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                f"{said} is in use by another program (a gateway, or TensorFlow Serving?). "
                f"Stop it, or choose another address with {flag} HOST:PORT.",
                reason="port_in_use",
            ) from error
        raise InvalidRequest(
            f"{flag} {said} cannot be bound: {error.strerror}", reason="bad_address"
        ) from error
    return sock
