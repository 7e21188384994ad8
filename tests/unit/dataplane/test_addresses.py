from __future__ import annotations

import socket

import pytest

from gateway.dataplane.addresses import close_all, listening, shown
from gateway.domain.errors import Conflict, InvalidRequest


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield f"127.0.0.1:{other.getsockname()[1]}"


@pytest.mark.parametrize("count", [1, 3])
def test_sockets_listen_at_once_and_share_one_port(count):
    sockets = listening("127.0.0.1:0", "--http", count)
    try:
        assert len(sockets) == count
        assert len({shown(sock) for sock in sockets}) == 1
        for _ in range(20):
            socket.create_connection(sockets[0].getsockname(), timeout=5).close()
    finally:
        close_all(sockets)


@pytest.mark.parametrize("count", [1, 3])
def test_a_port_in_use_is_said_in_the_words_of_whoever_asked(count, taken):
    with pytest.raises(Conflict, match=rf"^{taken} is in use.*another address with --grpc HOST"):
        listening(taken, "--grpc", count)


def test_ports_shared_between_our_own_sockets_are_not_shared_with_another_gateway():
    sockets = listening("127.0.0.1:0", "--http", 2)
    try:
        with pytest.raises(Conflict, match="is in use by another program"):
            listening(shown(sockets[0]), "--http", 2)
    finally:
        close_all(sockets)


@pytest.mark.parametrize("address", ["192.0.2.1:0", "no.such.host.invalid:1"])
def test_an_address_of_another_machine_is_refused(address):
    with pytest.raises(InvalidRequest, match=f"--http {address} "):
        listening(address, "--http")


def test_ipv6_is_shown_as_it_is_written():
    try:
        sockets = listening("[::1]:0", "--http")
    except InvalidRequest:
        pytest.skip("this machine has no IPv6")
    with sockets[0] as sock:
        assert shown(sock) == f"[::1]:{sock.getsockname()[1]}"
