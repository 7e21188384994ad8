"""One process of ours: started in a session of its own, or found again after a restart.

Its end is noticed through a pidfd, at once and without polling, for children and adopted processes
alike. A process is known by its pid and its start time, because pids are used again.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process, told from every later one with the same pid."""

    pid: int
    started_ticks: int
    """Field 22 of /proc/PID/stat: clock ticks between boot and start."""
    boot_id: str
    """Of /proc/sys/kernel/random/boot_id, as ticks begin anew with each boot."""


def boot_id() -> str:
    """Identifies this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _stat(pid: int) -> tuple[str, int, int] | None:
    """(state letter, session, start ticks), or None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may hold spaces and parentheses itself.
    fields = text[text.rindex(")") + 2 :].split()
    return fields[0], int(fields[3]), int(fields[19])


def identify(pid: int) -> ProcessId | None:
    """Who has this pid now; None for nobody and for a zombie."""
    stat = _stat(pid)
    if stat is None or stat[0] in "ZX":
        return None
    return ProcessId(pid, stat[2], boot_id())


class Process:
    """A running process and its session. Create with `start` or `adopt`."""

    def __init__(self, identity: ProcessId, pidfd: int, *, is_child: bool) -> None:
        self.identity = identity
        self.exit_code: int | None = None
        """As subprocess has it: negative for a signal. None while running, and for an adopted
        process, whose code only its parent learns."""
        self._is_child = is_child
        self._pidfd = pidfd
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pidfd, self._on_end)

    def __repr__(self) -> str:
        return f"Process(pid={self.pid}, ended={self.has_ended}, exit_code={self.exit_code})"

    @classmethod
    def start(cls, argv: Sequence[str], env: Mapping[str, str], log: Path) -> Process:
        """Start `argv` as the leader of a new session; its output is appended to `log`.

        Raises:
            OSError: the program cannot be executed.
        """
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            pid = os.posix_spawnp(
                argv[0],
                list(argv),
                dict(env),
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, output, 1),
                    (os.POSIX_SPAWN_DUP2, output, 2),
                ],
                setsid=True,
                # Python ignores these two; a program started by it must not inherit that.
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
                setsigmask=[],
            )
        finally:
            os.close(output)
        # A child cannot be reaped by anybody else, so its pid and its stat are its own until then.
        stat = _stat(pid)
        assert stat is not None
        return cls(ProcessId(pid, stat[2], boot_id()), os.pidfd_open(pid), is_child=True)

    @classmethod
    def adopt(cls, identity: ProcessId) -> Process | None:
        """Watch a process that an earlier gateway started; None when it is not there any more."""
        try:
            pidfd = os.pidfd_open(identity.pid)
        except ProcessLookupError:
            return None
        # Looked at after the pidfd holds it: what is seen now is what the pidfd means.
        if identify(identity.pid) != identity:
            os.close(pidfd)
            return None
        return cls(identity, pidfd, is_child=False)

    @property
    def pid(self) -> int:
        """Also the id of its session and process group."""
        return self.identity.pid

    @property
    def has_ended(self) -> bool:
        """Whether it has exited (and, as a child, was reaped)."""
        return self._ended.is_set()

    def _on_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        # Before reaping: as long as the leader is a zombie its number cannot mean another group.
        self.kill_session()
        if self._is_child:
            try:
                _, status = os.waitpid(self.pid, 0)
                self.exit_code = os.waitstatus_to_exitcode(status)
            except ChildProcessError:
                self.exit_code = None
        self._close()
        self._ended.set()

    def _close(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    async def ended(self) -> int | None:
        """Wait for its end; return its exit code."""
        await self._ended.wait()
        return self.exit_code

    def terminate(self) -> None:
        """SIGTERM to the process itself: a wrapper passes it on, so its child gets it once."""
        if not self.has_ended:
            signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)

    def kill_session(self) -> None:
        """SIGKILL to it and to all that it started and left in its session."""
        for pid in session_members(self.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    async def stop(self, grace_s: float) -> None:
        """SIGTERM, then SIGKILL to the whole session after `grace_s`. Returns once it has ended."""
        self.terminate()
        try:
            async with asyncio.timeout(grace_s):
                await self._ended.wait()
        except TimeoutError:
            self.kill_session()
            await self._ended.wait()

    def forget(self) -> None:
        """Stop watching and let it run on, for the next gateway to adopt."""
        if not self.has_ended and self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            self._close()


def session_members(session: int) -> list[int]:
    """Pids in a session, zombies aside. Group members that called setpgid are still in it."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            stat = _stat(int(entry.name))
            if stat is not None and stat[1] == session and stat[0] not in "ZX":
                found.append(int(entry.name))
    return found


def marked(variable: str, value: str) -> list[ProcessId]:
    """Processes of ours (by uid) whose environment has `variable=value`."""
    found = []
    needle = f"{variable}={value}".encode()
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            variables = Path(f"/proc/{entry.name}/environ").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if needle in variables and (identity := identify(int(entry.name))) is not None:
            found.append(identity)
    return found


def kill_strays(variable: str, value: str, spared: set[int]) -> list[int]:
    """SIGKILL processes marked with `variable=value` whose session is none of `spared`."""
    killed = []
    for identity in marked(variable, value):
        stat = _stat(identity.pid)
        if stat is None or stat[1] in spared or identity.pid == os.getpid():
            continue
        try:
            os.kill(identity.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        killed.append(identity.pid)
    return killed
