"""Version swaps under constant HTTP and gRPC load, with replicas killed by SIGKILL on the way.

Version N of the model answers `x + N`, so every answer says which version gave it.

    python -m loadtests.swap --swaps 20 --kills 5
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import struct
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from gateway.codecs.pb import tfs_pb2
from loadtests.models import write_adder
from loadtests.traffic import Sample, Shot, Summary, Traffic, summarize, wrong_versions
from tests.parts.gateway_process import GatewayProcess, gateway_process

Step = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Result:
    """What the scenario showed. Times are seconds."""

    swaps: int
    kills: int
    before: Summary
    during: Summary
    after: Summary
    wrong: list[str]
    seconds_to_live: list[float]
    """From the end of `publish` to the new version answering on all replicas."""


def adder_shot(model: str) -> Shot:
    """Send x = 0; the answer is the version."""
    request = tfs_pb2.PredictRequest()
    request.model_spec.name = model
    tensor = request.inputs["x"]
    tensor.dtype = tfs_pb2.DT_FLOAT
    tensor.tensor_shape.dim.add().size = 1
    tensor.tensor_shape.dim.add().size = 1
    tensor.float_val.append(0.0)

    def from_http(body: bytes, headers: Mapping[str, str]) -> int:
        return _same(round(json.loads(body)["predictions"][0][0]), headers["x-gateway-version"])

    def from_grpc(body: bytes) -> int:
        answer = tfs_pb2.PredictResponse.FromString(body)
        y = answer.outputs["y"]
        value = tfs_value(y)
        return _same(round(value), str(answer.model_spec.version.value))

    return Shot(model, b'{"instances": [[0.0]]}', request.SerializeToString(), from_http, from_grpc)


def tfs_value(tensor: tfs_pb2.TensorProto) -> float:
    """The only element of a float tensor, whichever way it was sent."""
    if tensor.tensor_content:
        return float(struct.unpack("<f", tensor.tensor_content)[0])
    return float(tensor.float_val[0])


def _same(by_value: int, by_name: str) -> int:
    if str(by_value) != by_name:
        raise ValueError(f"version {by_value} answered under the name of {by_name}")
    return by_value


async def run(
    gateway: GatewayProcess,
    source: Path,
    *,
    swaps: int,
    kills: int,
    rate_per_s: float,
    say: Step,
    overlap_s: float = 0.0,
) -> Result:
    """Deploy with two replicas, then swap `swaps` times, killing a replica in `kills` of them."""
    name = "swapper"
    published: list[tuple[int, float]] = []
    loop = asyncio.get_running_loop()

    async def publish(version: int) -> None:
        folder = source.parent / "staging" / str(version)
        write_adder(folder, float(version))
        published.append((version, loop.time()))
        await asyncio.to_thread(
            gateway.cli, "publish", str(folder), str(source), "--version", str(version)
        )

    await publish(1)
    await asyncio.to_thread(
        gateway.cli, "deploy", "model", name, "--source", str(source), "--replicas", "2"
    )
    traffic = Traffic(gateway.http, gateway.grpc, adder_shot(name), rate_per_s)
    waits: list[float] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(traffic.run())
        await asyncio.sleep(3.0)
        swaps_begin = loop.time()
        for version in range(2, swaps + 2):
            kill = _spread(version - 2, swaps, kills)
            await publish(version)
            done = loop.time()
            if kill:
                await asyncio.to_thread(_kill_one, gateway, name)
            await _until_live(gateway, name, version)
            waits.append(loop.time() - done)
            note = " (one replica killed)" if kill else ""
            say(f"version {version} live after {waits[-1]:.1f} s{note}")
        swaps_end = loop.time()
        await asyncio.sleep(3.0)
        traffic.stop.set()
    wrong = wrong_versions(traffic.samples, published, overlap_s)
    return _result(traffic.samples, (swaps_begin, swaps_end), swaps, kills, wrong, waits)


def _result(
    samples: list[Sample],
    window: tuple[float, float],
    swaps: int,
    kills: int,
    wrong: list[str],
    waits: list[float],
) -> Result:
    begin, end = window
    return Result(
        swaps,
        kills,
        summarize([s for s in samples if s.due_s < begin]),
        summarize([s for s in samples if begin <= s.due_s < end]),
        summarize([s for s in samples if s.due_s >= end]),
        wrong,
        waits,
    )


def _spread(index: int, total: int, picked: int) -> bool:
    """Whether item `index` of `total` is one of `picked` spread evenly."""
    return (index * picked) // total != ((index + 1) * picked) // total


def _kill_one(gateway: GatewayProcess, name: str) -> None:
    ready = [r for r in gateway.get("replicas", name) if r["state"] == "ready" and r["pid"]]
    if len(ready) < 2:
        raise SystemExit(f"a kill would leave nothing to answer: {gateway.get('replicas', name)}")
    os.kill(ready[0]["pid"], signal.SIGKILL)


async def _until_live(gateway: GatewayProcess, name: str, version: int) -> None:
    """Wait until `version` answers on two ready replicas, so that each swap starts whole."""
    async with asyncio.timeout(120):
        while True:
            replicas = await asyncio.to_thread(gateway.get, "replicas", name)
            models = await asyncio.to_thread(gateway.get, "models", name)
            whole = [r for r in replicas if r["state"] == "ready" and version in r["versions"]]
            if models[0]["live_version"] == version and len(whole) == 2:
                return
            await asyncio.sleep(0.2)


def main(argv: list[str] | None = None) -> int:
    """Run it and print the figures; 1 when a request failed or a wrong version answered."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--rate", type=float, default=50.0, help="requests/s on each protocol")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="gateway-swap-") as scratch:
        root = Path(scratch)
        with gateway_process(root / "state") as gateway:
            result = asyncio.run(
                run(
                    gateway,
                    root / "models" / "swapper",
                    swaps=args.swaps,
                    kills=args.kills,
                    rate_per_s=args.rate,
                    say=print,
                )
            )
    print(json.dumps(asdict(result), indent=1))
    failed = result.before.failed + result.during.failed + result.after.failed
    return 1 if failed or result.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
