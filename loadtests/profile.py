"""A flame graph of the gateway while it passes requests on: `make profile`.

py-spy samples the gateway's process from outside while h2load drives it; native frames are in it
where py-spy can unwind them (Linux on x86-64). Sampling another process needs root, or a kernel
that lets one do so (`kernel.yama.ptrace_scope=0`).

    python -m loadtests.profile                      HTTP and gRPC, small requests
    python -m loadtests.profile --only grpc-150kb
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from loadtests import h2load
from loadtests.echoes import SERVE_FLAGS, deploy_echo, grpc_request, http_request
from loadtests.ending import nothing_left
from loadtests.h2load import Request
from loadtests.machine import ROOT, need, which
from loadtests.progress import steps
from loadtests.proxies import MATRIX, PICTURE
from tests.parts.gateway_process import GatewayProcess, gateway_process

BUILD = ROOT / "build"
RATE = 499
"""Samples per second; odd, so that it does not march in step with anything."""
WARM_UP = 400
"""Requests before it: connections made, code warm."""

Make = Callable[[str, Path], Request]
LOADS: dict[str, tuple[Make, int, int]] = {
    "http-30b": (lambda m, p: http_request(m, 3, p), 16, 1),
    "http-784": (lambda m, p: http_request(m, 784, p), 16, 1),
    "grpc-90b": (lambda m, p: grpc_request(m, 9, p), 4, 4),
    "grpc-3kb": (lambda m, p: grpc_request(m, 784, p), 4, 4),
    "grpc-150kb": (lambda m, p: grpc_request(m, PICTURE, p), 4, 4),
    "grpc-4mb": (lambda m, p: grpc_request(m, MATRIX, p), 2, 2),
}
USUAL = ("http-30b", "grpc-90b")


def main(argv: list[str] | None = None) -> int:
    """Write build/profile-NAME.svg for each load; 1 where py-spy could not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", default=",".join(USUAL), help=f"of {', '.join(LOADS)}")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--pure", action="store_true", help="Python frames only")
    args = parser.parse_args(argv)
    names = args.only.split(",")
    if unknown := [name for name in names if name not in LOADS]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(LOADS)}")
    need("h2load", "go", "py-spy")
    BUILD.mkdir(exist_ok=True)
    with (
        nothing_left(),
        tempfile.TemporaryDirectory(prefix="gateway-profile-") as scratch,
        gateway_process(Path(scratch) / "state", *SERVE_FLAGS) as gateway,
        steps("profile", len(names)) as progress,
    ):
        deploy_echo(gateway, "small", Path(scratch))
        for name in names:
            progress.next(f"{name}, {args.seconds:g} s")
            if not _profiled(gateway, name, Path(scratch), args):
                return 1
    return 0


def _profiled(gateway: GatewayProcess, name: str, scratch: Path, args: argparse.Namespace) -> bool:
    """Sample the gateway while h2load drives it for longer than that takes."""
    assert gateway.process is not None
    make, connections, streams = LOADS[name]
    request = make("small", scratch)
    address = gateway.grpc if request.is_grpc else gateway.http
    h2load.run(address, request, WARM_UP, connections, streams)
    line = h2load.command(address, request, connections, streams, seconds=args.seconds + 10)
    with subprocess.Popen(line, stdout=subprocess.DEVNULL) as load:
        out = BUILD / f"profile-{name}.svg"
        is_there = _record(gateway.process.pid, out, args.seconds, native=not args.pure)
        load.terminate()
    return is_there


def _record(pid: int, out: Path, seconds: float, *, native: bool) -> bool:
    """Sample one process; without native frames where they cannot be had."""
    command = [str(which("py-spy")), "record", "--pid", str(pid), "--output", str(out)]
    command += ["--rate", str(RATE), "--duration", f"{seconds:g}"]
    # Native frames need the process stopped for each sample, the others do not.
    command.append("--native" if native else "--nonblocking")
    out.unlink(missing_ok=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0 and out.exists():
        print(f"flame graph in {out.relative_to(ROOT)}{' with native frames' if native else ''}")
        return True
    if native:
        print("no native frames here; trying without", file=sys.stderr)
        return _record(pid, out, seconds, native=False)
    print(f"py-spy could not sample the gateway:\n{done.stderr[-600:]}", file=sys.stderr)
    if "ermission" in done.stderr:
        print("It needs root, or: sysctl kernel.yama.ptrace_scope=0", file=sys.stderr)
    return False


if __name__ == "__main__":
    sys.exit(main())
