"""How far a long measurement is: one line with the time left on a terminal, else a line a round."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn


@dataclass(slots=True)
class Steps:
    """Told before each step what comes; a `title` names the part that they belong to."""

    title: str
    total: int
    bar: Progress | None = None
    task: TaskID | None = None
    done: int = 0
    said: str = ""

    def next(self, part: str, what: str = "") -> None:
        """`part` is said once where there is no terminal; `what` only on one."""
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=self.done, what=f"{part} · {what}".strip(" ·"))
        elif part != self.said:
            self.said = part
            print(f"   {self.title}: {part}", file=sys.stderr, flush=True)
        self.done += 1


@contextmanager
def steps(title: str, total: int) -> Iterator[Steps]:
    """So many steps are to come. On stderr, so that tables can be sent elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Steps(title, total)
        return
    columns = (
        TextColumn("   {task.description}"),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[what]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=total, what="")
        yield Steps(title, total, bar, task)
