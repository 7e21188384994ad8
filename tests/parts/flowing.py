"""Requests whose bodies are sent in pieces by hand, over a client of the wire."""

from __future__ import annotations

import asyncio
import os

from gateway.codecs.pb import tfs_pb2
from gateway.dataplane.settings import DataplaneSettings, HoldSettings
from gateway.wire.exchange import WireError
from gateway.wire.fields import Fields

PREDICT = "/v1/models/m:predict"
GRPC = Fields((("te", "trailers"), ("content-type", "application/grpc")))
HELD = HoldSettings(stream_from_bytes=64 << 10, request_bytes=1 << 20, answer_bytes=256 << 10)
SMALL_HOLD = DataplaneSettings(hold=HELD, drain_s=0.2)


def tensor_request(size: int, name: str = "m") -> bytes:
    message = tfs_pb2.PredictRequest()
    message.model_spec.name = name
    message.inputs["x"].dtype = 1
    message.inputs["x"].tensor_content = os.urandom(size)
    return message.SerializeToString()


def framed(message: bytes, flag: int = 0) -> bytes:
    return bytes((flag,)) + len(message).to_bytes(4, "big") + message


class Parts:
    """A body sent in pieces by hand over a client of the wire; collects what comes back."""

    def __init__(self) -> None:
        self.head = None
        self.body = bytearray()
        self.trailers = ()
        self.error: WireError | None = None
        self.over = asyncio.Event()
        self.exchange = None
        self.is_writable = asyncio.Event()

    def send(self, client, address, path, fields, **options):
        self.exchange = client.request(address, "POST", path, fields, None, self, **options)
        return self.exchange

    async def write(self, data: bytes) -> None:
        while self.exchange.is_congested and not self.over.is_set():
            self.is_writable.clear()
            await self.is_writable.wait()
        self.exchange.write(data)

    def on_whole(self, head, body, trailers):
        self.head, self.trailers = head, trailers
        self.body += body
        self.over.set()

    def on_head(self, head):
        self.head = head

    def on_data(self, data):
        self.body += data

    def on_end(self, trailers):
        self.trailers = trailers
        self.over.set()

    def on_failed(self, error):
        self.error = error
        self.over.set()
        self.is_writable.set()

    def on_writable(self):
        self.is_writable.set()
