"""A model of 500 MB is fetched and loaded by a replica that answers meanwhile: does anybody notice?

Callers ask for version 1 of a small model at a steady rate (open loop, Poisson, HTTP and gRPC).
Again and again a large version is deployed beside it on the same single replica: fetched from the
source, verified, loaded, warmed, and unloaded. Latencies meanwhile are compared with those in
windows of the same length just before, and those with each other (the noise floor).

    python -m loadtests.load_isolation --rounds 6
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from gateway.client.control import ControlClient
from gateway.codecs.pb import tfs_pb2
from gateway.sources.publish import publish
from loadtests.ending import nothing_left
from loadtests.machine import machine, need, write
from loadtests.models import write_adder, write_heavy_adder
from loadtests.scenario import Settings, add_options, disturbed, measured
from loadtests.shooting import Window, compare, shooting
from loadtests.summary import Line, Outcome, Spread, as_json, verdicts
from loadtests.swap import adder_shot, compared_lines, show
from loadtests.traffic import Sample, Shot
from loadtests.watching import Watching, watching
from tests.parts.gateway_process import GatewayProcess, gateway_process

MODEL = "isolated"
MEGABYTES = 500
RATE_PER_S = 400.0
_QUIET = 4
"""Windows before each load that are compared with each other."""


@dataclass(frozen=True, slots=True)
class Loading:
    """One large version, on the monotonic clock."""

    told_s: float
    loading_s: float
    """All of it is here and verified."""
    ready_s: float
    gone_s: float

    @property
    def windows(self) -> dict[str, Window]:
        """What callers had to do with."""
        return {
            "fetch and load": Window(self.told_s, self.ready_s),
            "fetch": Window(self.told_s, self.loading_s),
            "load": Window(self.loading_s, self.ready_s),
        }


def version_shot(model: str, version: int) -> Shot:
    """`adder_shot` for a version that is named."""
    shot = adder_shot(model)
    request = tfs_pb2.PredictRequest.FromString(shot.grpc_body)
    request.model_spec.version.value = version
    path = f"{model}/versions/{version}"
    return replace(shot, model=path, grpc_body=request.SerializeToString())


def measure(settings: Settings, spans: list[Loading], samples: list[Sample]) -> Outcome:
    """All rounds."""
    with gateway_process(settings.scratch / "state") as gateway:
        asyncio.run(_rounds(gateway, settings, spans, samples))
    failed = [s for s in samples if s.error]
    wrong = [s for s in samples if not s.error and s.version != 1]
    rows = []
    for what in spans[0].windows:
        found = compare(samples, [s.windows[what] for s in spans], _QUIET)
        rows.append({"what": what, **asdict(found)})
    facts = {
        "load": f"open loop, Poisson, {RATE_PER_S:g} requests/s, half HTTP, half gRPC",
        "model": f"{MEGABYTES} MB of ONNX beside the version that answers, on one replica",
        "requests": len(samples),
        "failed": len(failed),
        "errors": sorted({s.error for s in failed})[:5],
        "wrong_version": len(wrong),
        "loads": [asdict(s) for s in spans],
        "load_average_at_end": [round(v, 2) for v in os.getloadavg()],
    }
    return Outcome("load-isolation", _lines(rows, len(failed) + len(wrong)), rows, facts)


def _lines(rows: Sequence[dict[str, Any]], bad: int) -> list[Line]:
    lines = [Line("failed or wrong requests", "", Spread(bad, bad, bad, 1), 0)]
    lines += compared_lines(rows[0])
    return lines


async def _rounds(
    gateway: GatewayProcess, settings: Settings, spans: list[Loading], samples: list[Sample]
) -> None:
    root = settings.scratch
    source, staging = root / "models" / MODEL, root / "staging"
    write_adder(staging / "small", 1.0)
    await publish(staging / "small", source.as_uri(), 1)
    write_heavy_adder(staging / "large", 2.0, MEGABYTES)
    await asyncio.to_thread(
        gateway.cli,
        *("deploy", "model", MODEL, "--source", str(source), "--versions", "1"),
    )
    async with ControlClient(gateway.url) as control, watching(control, MODEL) as news:
        shot = version_shot(MODEL, 1)
        with shooting(gateway.http, gateway.grpc, shot, RATE_PER_S, root) as shots:
            longest_s = 3.0
            for round_ in range(settings.rounds):
                version = round_ + 2
                await publish(staging / "large", source.as_uri(), version)
                await control.refresh(MODEL)
                # What writing it has left to do (page cache, the source's look) is over by then.
                await asyncio.sleep(3.0 + (_QUIET + 0.5) * longest_s)
                spans.append(await _load(control, news, version))
                longest_s = max(longest_s, spans[-1].ready_s - spans[-1].told_s)
                print(_told(spans[-1]), file=sys.stderr, flush=True)
                await asyncio.to_thread(shutil.rmtree, source / str(version))
            await asyncio.sleep(2.0)
        samples += shots.samples


async def _load(control: ControlClient, news: Watching, version: int) -> Loading:
    told = asyncio.get_running_loop().time()
    await control.deploy(MODEL, {"versions": f"1,{version}"})
    loading = await news.until("version.loading", version, told)
    ready = await news.until("version.ready", version, told)
    await asyncio.sleep(1.0)
    await control.deploy(MODEL, {"versions": "1"})
    return Loading(told, loading, ready, await news.until("version.unloaded", version, told))


def _told(one: Loading) -> str:
    return (
        f"fetched after {one.loading_s - one.told_s:.1f} s, ready after "
        f"{one.ready_s - one.told_s:.1f} s"
    )


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write JSON and picture; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    add_options(parser)
    parser.set_defaults(rounds=6)
    args = parser.parse_args(argv)
    need("go", "matplotlib")
    from loadtests.swap_picture import draw_spans

    facts, spans, samples = machine(), list[Loading](), list[Sample]()
    with nothing_left():
        outcome = measured(lambda settings: measure(settings, spans, samples), args)
    print(f"{show(outcome)}\n\n{verdicts([outcome])}\n{disturbed(outcome)}")
    path = write(outcome.name, {**facts, **as_json(outcome)}, args.out)
    caption = f"load-isolation, {facts['commit']}, {facts['cores']} cores: {outcome.facts['model']}"
    shown = [(s.told_s, s.loading_s, False) for s in spans]
    shown += [(s.loading_s, s.ready_s, True) for s in spans]
    draw_spans(samples, shown, ("fetch", "load"), caption, path.with_suffix(".svg"))
    return int(not all(line.is_met for line in outcome.lines))


if __name__ == "__main__":
    sys.exit(main())
