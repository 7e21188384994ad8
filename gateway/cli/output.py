"""How results are printed: tables for people, JSON and YAML for programs.

JSON and YAML go to stdout alone and whole, whatever the terminal. Tables take the terminal's width,
80 columns where there is none; cells that do not fit are folded, never cut, so nothing is lost in a
pipe. Colours only on a terminal, and not with NO_COLOR (rich sees to both).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

Object = dict[str, Any]
_F = TypeVar("_F", bound=Callable[..., Any])

_STYLES = {
    "ready": "green", "AVAILABLE": "green", "ok": "green",
    "failed": "bold red", "broken": "bold red", "degraded": "yellow", "warning": "yellow",
    "idle": "blue", "pending": "cyan", "deploying": "cyan", "loading": "cyan", "fetching": "cyan",
    "starting": "cyan", "new": "cyan", "draining": "magenta", "deleting": "magenta",
}  # fmt: skip


def output_option(command: _F) -> _F:
    """The `-o` option."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json", "yaml"]),
        default="table",
        show_default=True,
        help="json and yaml have stable keys; tables are for people.",
    )(command)


def console(*, stderr: bool = False) -> Console:
    """A rich console for stdout or stderr."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 80
    return Console(file=stream, width=width, highlight=False, soft_wrap=False, emoji=False)


def say(message: str) -> None:
    """Tell the person something that is no result."""
    # Whoever read the progress may have left (`| head`): what is under way goes on without it.
    with suppress(BrokenPipeError):
        click.echo(message, err=True)


def dump(value: Any, output: str) -> None:
    """Print `value` as JSON or YAML."""
    if output == "json":
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        import yaml

        click.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), nl=False)


def line(value: Any) -> None:
    """Print `value` as one line of JSON, at once (a watcher's reader is waiting)."""
    click.echo(json.dumps(value, ensure_ascii=False))
    sys.stdout.flush()


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, fold: str = "") -> Table:
    """A plain table; the column named `fold` takes what width is left."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        grid.add_column(name.upper(), overflow="fold", no_wrap=False, ratio=None)
    if fold:
        grid.columns[columns.index(fold)].min_width = 12
    for row in rows:
        # Text, not markup: a message may contain [brackets].
        grid.add_row(*(Text(cell(v), style=_STYLES.get(str(v), "")) for v in row))
    return grid


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, fold: str = "") -> None:
    """Print a table to stdout."""
    show(table(columns, rows, fold=fold))


def show(renderable: RenderableType) -> None:
    """Print what rich lays out, without the blanks that it fills lines up with."""
    out = console()
    with out.capture() as captured:
        out.print(renderable)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if value in (None, "", [], (), {}):
        return "-"
    match value:
        case True | False:
            return "yes" if value else "no"
        case list() | tuple():
            return ",".join(str(v) for v in value)
        case Mapping():
            return ",".join(f"{k}={v}" for k, v in value.items())
        case _:
            return str(value)


def bytes_text(count: int | None) -> str:
    """`480 MB`: decimal, as disks and networks are sold."""
    if count is None:
        return "-"
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            value = count / size
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{count} B"
