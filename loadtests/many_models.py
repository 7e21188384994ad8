"""A data plane whose table has thousands of models, all answered by the same replicas.

Started as a process by `loadtests.footprint`: `gateway serve` would want a replica for each model.
It prints one line of JSON with its addresses and what the table cost, and ends with its stdin.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from random import Random

import psutil
import uvloop

from gateway.core.balance import Balancer, BalanceSettings
from gateway.core.route import ModelRoute, RoutingTable, Target, route
from gateway.dataplane.planes import open_planes
from gateway.dataplane.settings import DataplaneSettings
from gateway.domain.models import VersionState, VersionStatus
from gateway.domain.replicas import Endpoint
from gateway.telemetry import Metrics
from gateway.upstream.grpc import GrpcUpstream
from gateway.upstream.http import HttpUpstream

SPEAKS = ("tfs-rest", "tfs-grpc")
REPLICAS = 2


def model_name(index: int) -> str:
    """Of one of the models."""
    return f"team-{index % 97}.model-{index}"


def routing_table(models: int, endpoints: Sequence[Endpoint]) -> RoutingTable:
    """So many models with one version, two replicas each."""
    routes = {}
    for index in range(models):
        name = model_name(index)
        targets = tuple(
            Target(f"{name}-{letter}", endpoints[i % len(endpoints)])
            for i, letter in enumerate("ab"[:REPLICAS])
        )
        statuses = (VersionStatus(1, VersionState.READY),)
        routes[name] = ModelRoute(
            name, 1, {1: targets}, {"stable": 1}, statuses, backend="custom", speaks=SPEAKS
        )
    return RoutingTable(1, routes)


def lookups_s(table: RoutingTable, count: int, rng: Random) -> list[float]:
    """Seconds of each lookup: which replicas hold a model drawn at random, and which one takes it.
    The clock's own two reads, some 0.1 µs, are within."""
    balancer = Balancer(BalanceSettings())
    in_flight: dict[str, int] = {}
    names = list(table.models)
    for found in table.models.values():
        for target in found.targets[1]:
            balancer.answered(target.replica_id, rng.uniform(0.001, 0.01), 0, None, 0.0)
            in_flight[target.replica_id] = rng.randrange(3)

    took = []
    for _ in range(count):
        name = rng.choice(names)
        begun = time.perf_counter_ns()
        chosen = balancer.choose(route(table, name).targets, in_flight, 1.0, rng)
        took.append((time.perf_counter_ns() - begun) / 1e9)
        assert chosen is not None
    return took


async def _serve(args: argparse.Namespace) -> None:
    settings = DataplaneSettings(http="127.0.0.1:0", grpc="127.0.0.1:0")

    def upstreams() -> tuple[HttpUpstream, GrpcUpstream]:
        return HttpUpstream(), GrpcUpstream()

    async with open_planes(settings, upstreams=upstreams, metrics=Metrics()) as planes:
        process = psutil.Process()
        before = process.memory_info().rss
        endpoints = [Endpoint(h, g, g) for h, g in zip(args.http, args.grpc, strict=True)]
        table = routing_table(args.models, endpoints)
        begun = time.perf_counter()
        planes.publish(table)
        told = {
            "http": planes.http_address,
            "grpc": planes.grpc_address,
            "publish_s": time.perf_counter() - begun,
            "table_bytes": process.memory_info().rss - before,
        }
        print(json.dumps(told), flush=True)
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    """Serve until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", type=int, default=20_000)
    parser.add_argument("--http", action="append", required=True, help="a replica's address")
    parser.add_argument("--grpc", action="append", required=True)
    uvloop.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
