"""The way from inside a network namespace to the API server, and no other.

    python -m tests.cluster.gate PID LISTEN:PORT TARGET:PORT

listens in the network namespace of process PID and passes each connection on to TARGET, seen from
where this program was started. The namespace needs no route out, and the API server no address
beside its loopback one.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import sys
from contextlib import suppress

CLONE_NEWNET = 0x40000000


def socket_in(pid: int, host: str, port: int) -> socket.socket:
    """A listening socket in another process's network namespace. (os.setns comes with 3.12.)"""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/ns/net") as home, open(f"/proc/{pid}/ns/net") as there:
        _enter(libc, there.fileno())
        try:
            return socket.create_server((host, port))
        finally:
            _enter(libc, home.fileno())


def _enter(libc: ctypes.CDLL, fd: int) -> None:
    if libc.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns: " + os.strerror(ctypes.get_errno()))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int
) -> None:
    try:
        # Refused while the API server is down: the caller sees its connection closed, and retries.
        there = await asyncio.open_connection(host, port)
    except OSError:
        writer.close()
        return
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_copy(reader, there[1]))
            tasks.create_task(_copy(there[0], writer))
    finally:
        writer.close()
        there[1].close()


async def main(pid: int, listen: str, target: str) -> None:
    """Pass connections on until killed."""
    host, _, port = listen.rpartition(":")
    to_host, _, to_port = target.rpartition(":")

    async def passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _pass_on(reader, writer, to_host, int(to_port))

    sock = socket_in(pid, host, int(port))
    async with await asyncio.start_server(passed, sock=sock) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
