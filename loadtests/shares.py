"""Give a process a share of a core, by the kernel's control groups: so that two workers can be seen
beside a load tool on two cores. Needs root; where it cannot be done, `share_of_core` says so."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_IS_V2 = (_ROOT / "cgroup.controllers").exists()
_HIERARCHY = "" if _IS_V2 else "cpu"
_PERIOD_US = 10_000
"""A tenth of the usual: a share is then a slow core rather than a core that stops and goes."""


class NotPossible(Exception):
    """No control groups here, or no right to make one."""


@contextmanager
def share_of_core(pids: Sequence[int], ratio: float) -> Iterator[None]:
    """Each of the processes, with all its threads, gets at most `ratio` of a core until the end.

    Raises:
        NotPossible: nothing was changed.
    """
    made: list[tuple[Path, Path]] = []
    try:
        for pid in pids:
            group, home = _ROOT / _HIERARCHY / f"gateway-bench-{os.getpid()}-{pid}", _home(pid)
            group.mkdir()
            made.append((group, home))
            _limit(group, round(ratio * _PERIOD_US))
            (group / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        _undo(made)
        raise NotPossible(str(error)) from error
    try:
        yield
    finally:
        _undo(made)


def _home(pid: int) -> Path:
    """The group in which the process is now."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if (not controllers) if _IS_V2 else "cpu" in controllers.split(","):
            return _ROOT / _HIERARCHY / path.lstrip("/")
    raise FileNotFoundError("no control group has the processors")


def _limit(group: Path, quota_us: int) -> None:
    if _IS_V2:
        (_ROOT / "cgroup.subtree_control").write_text("+cpu")
        (group / "cpu.max").write_text(f"{quota_us} {_PERIOD_US}")
    else:
        (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(quota_us))


def _undo(made: Sequence[tuple[Path, Path]]) -> None:
    for group, home in made:
        for pid in (group / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):  # it has ended, which is as good
                (home / "cgroup.procs").write_text(pid)
        group.rmdir()
