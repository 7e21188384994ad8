"""`python -m gateway`, the same as `gateway`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    if sys.argv[1:2] == ["worker"]:  # a process of `gateway serve --workers N`, not for people
        from gateway.app import worker

        sys.exit(worker(sys.argv[2:]))
    from gateway.cli.root import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
