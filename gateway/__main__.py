"""`python -m gateway`, the same as `gateway`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    if sys.argv[1:2] == ["worker"]:
        sys.exit(worker(sys.argv[2:]))
    from gateway.cli.root import run

    code = run(sys.argv[1:])
    if "obstore" in sys.modules:
        from gateway.storage.leaving import leave

        leave(code)
    sys.exit(code)


def worker(argv: list[str]) -> int:
    """`gateway worker`: a process of `gateway serve --workers N`, not for people.

    Composed here and not in app.py, which loads all that a worker does not need: the control API
    with its server, the store, schedulers and sources.
    """
    from gateway.dataplane.worker import main as run
    from gateway.upstream import GrpcUpstream, HttpUpstream

    return run(argv, lambda: (HttpUpstream(), GrpcUpstream()))


if __name__ == "__main__":
    main()
