"""What a gateway says of itself to the others."""

from __future__ import annotations

import socket

import pytest

from gateway.schedulers.identity import told_to_others


@pytest.mark.parametrize("address", ["127.0.0.1:8080", "[::1]:8080", "10.1.2.3:80", "host:80"])
def test_an_address_that_others_can_use_is_told_as_it_is(address: str) -> None:
    assert told_to_others(address) == address


@pytest.mark.parametrize("address", ["0.0.0.0:8080", "[::]:8080"])
def test_who_listens_on_every_address_is_told_by_the_name_of_its_machine(address: str) -> None:
    assert told_to_others(address) == f"{socket.gethostname()}:8080"
