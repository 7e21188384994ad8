"""h2spec, the HTTP/2 conformance suite, against a listener of the wire (strict, all of it)."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from pathlib import Path

import pytest
import uvloop

from gateway.wire.fields import Fields
from gateway.wire.listener import Listener
from tests.parts.need import need

H2SPEC = Path(os.environ.get("H2SPEC", ".cache/bin/h2spec")).absolute()
TEXT = (Fields([("content-type", "text/plain")]),)
TESTS = 146
"""Of h2spec 2.2.1. Named, so that a suite that stops half-way does not count as passed."""


class Echo:
    """Answers with what it is sent."""

    def begin(self, exchange, body):
        exchange.sink = Whole(exchange)
        if body is None:
            exchange.accept_body()
        else:
            exchange.respond(200, TEXT, bytes(body) or b"hello")


class Whole:
    def __init__(self, exchange):
        self._exchange = exchange
        self._body = b""

    def on_data(self, data):
        self._body += bytes(data)

    def on_end(self, trailers):
        self._exchange.respond(200, TEXT, self._body or b"hello")

    def on_gone(self, cause):
        pass

    def on_writable(self):
        pass


async def _h2spec() -> str:
    listener = Listener(Echo())
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        await listener.start(sock)
        try:
            process = await asyncio.create_subprocess_exec(
                str(H2SPEC), "-S", "-h", "127.0.0.1", "-p", str(port),
                stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            said, _ = await process.communicate()
        finally:
            await listener.stop(0.0)
    return said.decode()


@pytest.mark.slow
@pytest.mark.parametrize(
    "loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def test_every_case_of_h2spec_passes(loop_factory):
    need(H2SPEC.is_file(), f"make {H2SPEC}")
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        said = runner.run(_h2spec())
    tests, passed, skipped, failed = map(
        int, re.findall(r"(\d+) (?:tests|passed|skipped|failed)", said)[-4:]
    )
    assert (tests, passed, skipped, failed) == (TESTS, TESTS, 0, 0), said
