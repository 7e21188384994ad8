"""The gateway's data plane before replicas that are named on its command line, as Envoy has them.

Started as a process by `loadtests.uneven`. It prints its HTTP address and ends with its stdin.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

import uvloop

from gateway.core.balance import RULES, BalanceSettings
from gateway.core.route import ModelRoute, RoutingTable, Target
from gateway.dataplane.planes import open_planes
from gateway.dataplane.settings import DataplaneSettings
from gateway.domain.models import VersionState, VersionStatus
from gateway.domain.replicas import Endpoint
from gateway.telemetry import Metrics
from gateway.upstream.grpc import GrpcUpstream
from gateway.upstream.http import HttpUpstream


async def _serve(args: argparse.Namespace) -> None:
    settings = DataplaneSettings(
        http="127.0.0.1:0", grpc="127.0.0.1:0", balance=BalanceSettings(rule=args.rule)
    )

    def upstreams() -> tuple[HttpUpstream, GrpcUpstream]:
        return HttpUpstream(), GrpcUpstream()

    async with open_planes(settings, upstreams=upstreams, metrics=Metrics()) as planes:
        targets = tuple(Target(f"r{n}", Endpoint(a, a, a)) for n, a in enumerate(args.replica))
        statuses = (VersionStatus(1, VersionState.READY),)
        route = ModelRoute(
            args.model, 1, {1: targets}, {"stable": 1}, statuses, speaks=("tfs-rest",)
        )
        planes.publish(RoutingTable(1, {args.model: route}))
        print(planes.http_address, flush=True)
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    """Serve until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="m")
    parser.add_argument("--rule", choices=RULES, default="work")
    parser.add_argument("--replica", action="append", required=True, help="its address")
    uvloop.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
