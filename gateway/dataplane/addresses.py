"""Taking the two ports, with words that help when they are taken."""

from __future__ import annotations

import errno
import socket

from gateway.domain.errors import Conflict, InvalidRequest


def reserve(
    address: str, flag: str, *, reuse_port: bool = False, is_shared: bool = False
) -> socket.socket:
    """A bound TCP socket for `host:port`; port 0 takes a free one. It does not listen with
    `reuse_port`.

    With `reuse_port` other processes of ours may bind the same port while it is held. Somebody
    else's listener is found out first, because SO_REUSEPORT alone would share the port with it,
    unless the port `is_shared` with our own already.

    Raises:
        Conflict: somebody listens there already (`port_in_use`).
        InvalidRequest: the host is none of this machine's, or the port may not be bound
            (`bad_address`).
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, ValueError) as error:
        raise InvalidRequest(
            f"{flag} {address} is no address of this machine: {error}", reason="bad_address"
        ) from error
    if reuse_port and place[1] and not is_shared:
        _bound(family, kind, protocol, place, address, flag, reuse_port=False).close()
    return _bound(family, kind, protocol, place, address, flag, reuse_port=reuse_port)


def shown(sock: socket.socket) -> str:
    """`host:port` of a bound socket."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bound(
    family: int,
    kind: int,
    protocol: int,
    place: object,
    address: str,
    flag: str,
    *,
    reuse_port: bool,
) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(place)  # type: ignore[arg-type]
        if not reuse_port:
            # Two sockets may be bound to one port as long as none listens, so only this finds out.
            sock.listen(1024)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                f"{address} is in use by another program (a gateway, or TensorFlow Serving?). "
                f"Stop it, or choose another address with {flag} HOST:PORT.",
                reason="port_in_use",
            ) from error
        raise InvalidRequest(
            f"{flag} {address} cannot be bound: {error.strerror}", reason="bad_address"
        ) from error
    return sock
