"""One program of the cluster: started, stopped, frozen, started again with its data."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.slots import MARK, Slot


@dataclass
class Part:
    """A process that comes back with the same command, files and addresses."""

    name: str
    slot: Slot
    command: Sequence[str]
    environ: Mapping[str, str] = field(default_factory=dict)
    mark: str = ""
    """A group within the slot that can be swept alone: a folder below the slot's."""
    is_wanted: bool = field(default=False, init=False)
    """Between `start` and `stop`: if it ends meanwhile, that was its own doing."""
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def log(self) -> Path:
        """Everything it has written, over all its lives."""
        return self.slot.folder / "log" / f"{self.name}.log"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, unless it runs."""
        self.is_wanted = True
        if self.is_running:
            return
        self.log.parent.mkdir(exist_ok=True)
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.slot.folder,
                env={**_without_proxies(), **self.environ, MARK: str(self.slot.folder / self.mark)},
                start_new_session=True,  # a Ctrl-C is the tests', not the cluster's
            )

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it, by default as a power cut does, and wait until it is gone."""
        self.is_wanted = False
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(how)
            self._process.wait(timeout=90)

    def freeze(self) -> None:
        """Stop it from running without closing a connection: the other end sees silence."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def said(self, length: int = 1500) -> str:
        """The end of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return text[-length:]


def _without_proxies() -> dict[str, str]:
    """The tests' environment; a proxy has no way to the cluster's addresses."""
    return {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
