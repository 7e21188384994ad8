"""The targets by name. Importing this needs no fuzzer: the corpus is replayed without one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True, slots=True)
class Target:
    """What is fuzzed."""

    name: str
    max_bytes: int
    """Of one case. Bounds are set so low that such cases reach them."""

    def load(self) -> Callable[[bytes], None]:
        """The function that runs one case. It raises where something does not hold."""
        run: Callable[[bytes], None] = import_module(f"tests.fuzz.{self.name}").run
        return run


TARGETS = {
    target.name: target
    for target in (
        Target("h1_server", 2048),
        Target("h1_client", 2048),
        Target("h2_server", 1024),
        Target("h2_client", 1024),
        Target("heads", 700),
        Target("grpc", 1024),
    )
}
