"""`gateway top`: what is going through, now."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.output import console, dump, output_option, print_table, say, table
from gateway.cli.session import Session, url_option

if TYPE_CHECKING:
    from gateway.client.control import ControlClient

Object = dict[str, Any]
_COLUMNS = (
    "model", "ver", "req/s", "err/s", "shed/s", "p50", "p99", "flight", "queue", "limit",
    "repl",
)  # fmt: skip
_EXAMPLES = """\b
Examples
  gateway top                    until Ctrl-C
  gateway top resnet -n 1
  gateway top -o json            one look, for programs
"""


@click.command(epilog=_EXAMPLES, short_help="Live rates, errors and latencies of the models.")
@click.argument("name", required=False)
@click.option(
    "-n",
    "--interval",
    type=click.FloatRange(0.2, 3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How long each look lasts.",
)
@output_option
@url_option
@click.pass_obj
def top(session: Session, name: str | None, interval: float, output: str) -> None:
    """Show what goes through model NAME, or all models: requests and errors a second, what was
    shed, latencies, requests in flight and waiting, the learnt limit of how many are with replicas
    at once, and its replicas (ver, flight, queue, limit and repl in the table). 2/3: of three
    replicas two answer and are trusted; `gateway get replicas` says why one is not.

    On a terminal the table is drawn anew until Ctrl-C; else, and with json or yaml, it is one look
    of --interval seconds. A row without a version is of requests that none has answered.
    """
    try:
        if output == "table" and sys.stdout.isatty():
            session.call(lambda control: _live(control, name, interval))
        rows = session.call(lambda control: _look(control, name, interval))
    except KeyboardInterrupt:
        return
    if output != "table":
        dump(rows, output)
    elif rows:
        print_table(_COLUMNS, cells(rows), fold="model")
    else:
        say(_nothing(name))


async def _look(control: ControlClient, name: str | None, interval_s: float) -> list[Object]:
    import asyncio

    from gateway.cli.rates import rates

    if name is not None:
        await control.model(name)  # an unknown name is an error, not an empty table
    before = await control.traffic(name)
    await asyncio.sleep(interval_s)
    return rates(before, await control.traffic(name), await control.replicas(name))


async def _live(control: ControlClient, name: str | None, interval_s: float) -> None:
    import asyncio

    from rich.live import Live

    from gateway.cli.rates import rates

    if name is not None:
        await control.model(name)
    with Live(console=console(), auto_refresh=False, vertical_overflow="crop") as live:
        live.update(f"Looking at {control.url} for {interval_s:g} s…", refresh=True)
        before = await control.traffic(name)
        while True:
            await asyncio.sleep(interval_s)
            after = await control.traffic(name)
            rows = rates(before, after, await control.replicas(name))
            shown = table(_COLUMNS, cells(rows), fold="model") if rows else _nothing(name)
            live.update(shown, refresh=True)
            before = after


def _nothing(name: str | None) -> str:
    return f"Nobody has asked {name or 'any model'} for anything since the gateway started."


def cells(rows: Sequence[Object]) -> list[tuple[Any, ...]]:
    """As the table shows them: what is of the model stands in its first row."""
    found = []
    above = None
    for row in rows:
        is_first = row["model"] != above
        above = row["model"]
        shared: tuple[Any, ...] = (" ",) * 5  # nothing would show as "-": not known
        if is_first:
            numbers = row["in_flight"], row["queued"], row["limit"]
            shared = _rate(row["shed_per_s"]), *numbers, _replicas(row)
        shed, *rest = shared
        found.append(
            (
                row["model"] if is_first else " ",
                "-" if row["version"] is None else row["version"],
                _rate(row["requests_per_s"]),
                _rate(row["errors_per_s"]),
                shed,
                _milliseconds(row["p50_s"]),
                _milliseconds(row["p99_s"]),
                *rest,
            )
        )
    return found


def _replicas(row: Object) -> str:
    trusted, count = row["trusted_replicas"], row["replicas"]
    return str(count) if trusted == count else f"{trusted}/{count}"


def _rate(per_s: float) -> str:
    return f"{per_s:.0f}" if per_s >= 10 or not per_s else f"{per_s:.1f}"


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    ms = seconds * 1e3
    return f"{ms:.0f} ms" if ms >= 10 else f"{ms:.1f} ms" if ms >= 1 else f"{ms:.2f} ms"
