"""`python -m servers.onnx`: serve ONNX models."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from servers.kit.main import run
from servers.kit.runtime import Runtime

DEFAULT_INTRA_OP = max(1, (os.cpu_count() or 1) // 2)
"""Half of the cores: the kit runs two requests at once by default."""


def _flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--intra-op-threads",
        type=int,
        default=DEFAULT_INTRA_OP,
        metavar="N",
        help="threads that one run of a model may use",
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto takes CUDA where this onnxruntime and machine have it",
    )


def _runtime(args: argparse.Namespace) -> Runtime:
    # Here, so that a missing onnxruntime is said in words, with the command that installs it.
    from servers.onnx.runtime import OnnxRuntime

    return OnnxRuntime(intra_op_threads=args.intra_op_threads, device=args.device)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop; returns the exit code."""
    return run(_runtime, "onnx", argv, add_flags=_flags)


if __name__ == "__main__":
    sys.exit(main())
