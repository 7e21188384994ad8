"""`python -m servers.caffe`: serve Caffe models."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from servers.caffe.engine import EngineError
from servers.caffe.runtime import CaffeRuntime, engine_named
from servers.kit.main import run
from servers.kit.runtime import Runtime


def _flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine",
        choices=("auto", "opencv", "caffe"),
        default="auto",
        help="auto takes Caffe itself where `import caffe` works, else OpenCV",
    )
    parser.add_argument(
        "--engine-threads",
        type=int,
        default=None,
        metavar="N",
        help="threads that OpenCV may use for one run; all cores if not given",
    )


def _runtime(args: argparse.Namespace) -> Runtime:
    try:
        return CaffeRuntime(engine_named(args.engine, args.engine_threads))
    except EngineError as error:
        raise ImportError(str(error)) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop; returns the exit code."""
    return run(_runtime, "caffe", argv, add_flags=_flags)


if __name__ == "__main__":
    sys.exit(main())
