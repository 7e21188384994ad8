"""`python -m servers.tensorflow`: serve SavedModels."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from servers.kit.main import run
from servers.kit.runtime import Runtime
from servers.tensorflow.runtime import TensorFlowRuntime


def _flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--intra-op-threads",
        type=int,
        default=0,
        metavar="N",
        help="threads that one operation may use; 0 lets TensorFlow choose",
    )


def _runtime(args: argparse.Namespace) -> Runtime:
    return TensorFlowRuntime(threads=args.intra_op_threads)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop; returns the exit code."""
    return run(_runtime, "tensorflow", argv, add_flags=_flags)


if __name__ == "__main__":
    sys.exit(main())
