"""What this machine has to give: GPUs and free ports."""

from __future__ import annotations

import asyncio
import os
import socket

from gateway.core.placement import Gpu

_ASK_S = 10.0


async def find_gpus(listed: tuple[str, ...] | None) -> tuple[Gpu, ...]:
    """The GPUs to place replicas on: `listed`, else what nvidia-smi shows; none where it is not
    there or does not answer. CUDA_VISIBLE_DEVICES of the gateway itself narrows them."""
    if listed is not None:
        return tuple(Gpu(g) for g in listed)
    try:
        asked = await asyncio.create_subprocess_exec(
            "nvidia-smi",
            "--query-gpu=index,uuid,name",
            "--format=csv,noheader",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return ()
    try:
        async with asyncio.timeout(_ASK_S):
            answer, _ = await asked.communicate()
    except TimeoutError:
        asked.kill()
        await asked.wait()
        return ()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    allowed = None if visible is None else {v.strip() for v in visible.split(",")}
    gpus = []
    for line in answer.decode(errors="replace").splitlines():
        index, uuid, product = ([p.strip() for p in line.split(",", 2)] + ["", ""])[:3]
        if uuid and (allowed is None or {index, uuid} & allowed):
            gpus.append(Gpu(uuid, product.replace(" ", "-")))
    return tuple(gpus)


def free_ports(count: int) -> tuple[int, ...]:
    """Ports that nobody uses now. Another program may take one before it is used; the replica then
    fails to start and is started again on others."""
    sockets = []
    try:
        for _ in range(count):
            one = socket.socket()
            sockets.append(one)
            one.bind(("127.0.0.1", 0))
        return tuple(s.getsockname()[1] for s in sockets)
    finally:
        for one in sockets:
            one.close()


async def is_listening(port: int, timeout_s: float = 1.0) -> bool:
    """Whether something on this machine accepts connections at `port`."""
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
