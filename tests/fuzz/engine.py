"""The process that fuzzes: `python -m tests.fuzz.engine TARGET CPU_S COMMAND [arguments]`.

COMMAND is what libFuzzer starts when it wants another process of the same kind (to merge); the
arguments are libFuzzer's.

Only `gateway.wire` is instrumented: what the coverage leads to is its branches, not the checks'.
"""

from __future__ import annotations

import os
import sys
import time

import atheris  # type: ignore[import-untyped]

from tests.fuzz.targets import TARGETS

_LOOK_EVERY = 64
"""Cases between two looks at the clock."""


def main() -> None:
    name, cpu_s = sys.argv[1], float(sys.argv[2])
    with atheris.instrument_imports(include=["gateway.wire"]):
        run = TARGETS[name].load()
    began_s = time.process_time()
    count = 0

    def told() -> str:
        return f"executions {count} cpu_s {time.process_time() - began_s:.0f}"

    def one(data: bytes) -> None:
        nonlocal count
        try:
            run(data)
        except BaseException:
            print(told(), flush=True)
            raise
        count += 1
        if cpu_s and count % _LOOK_EVERY == 0 and time.process_time() - began_s > cpu_s:
            # libFuzzer measures by the wall's clock, which on a busy machine says little. What it
            # has found is on disk.
            print(told(), flush=True)
            os._exit(0)

    atheris.Setup(sys.argv[3:], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
