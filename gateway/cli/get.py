"""`gateway get`: list what there is, once or as it changes."""

from __future__ import annotations

import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.output import console, dump, line, output_option, print_table, say, show, table
from gateway.cli.rows import NOUNS, Noun, noun_named
from gateway.cli.session import Session, url_option

if TYPE_CHECKING:
    from gateway.client.control import ControlClient

Object = dict[str, Any]
_EXAMPLES = """\b
Examples
  gateway get models
  gateway get replicas resnet -o json
  gateway get versions resnet --watch
  gateway get events --watch -o json        one object per line
"""


def _noun(word: str) -> Noun:
    """One of the nouns, in singular or plural; the argument's `type`."""
    noun = noun_named(word)
    if noun is None:
        raise click.BadParameter(f"{word!r} is none of: {', '.join(NOUNS)}")
    return noun


@click.command(epilog=_EXAMPLES, short_help="List models, versions, replicas, rollouts, events.")
@click.argument("noun", type=_noun, metavar="models|versions|replicas|rollouts|events")
@click.argument("name", required=False)
@click.option("-w", "--watch", is_flag=True, help="Go on and show changes. Ctrl-C ends it.")
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    default=100,
    show_default=True,
    help="Of events: the newest this many.",
)
@output_option
@url_option
@click.pass_obj
def get(
    session: Session, noun: Noun, name: str | None, watch: bool, limit: int, output: str
) -> None:
    """List models, versions, replicas, rollouts or events; of model NAME, or of all.

    json is a list of objects; with --watch one object per line, first all and then each that
    changes.
    """
    if watch and output == "yaml":
        raise click.UsageError("--watch speaks table or json")
    if watch:
        try:
            session.call(lambda control: _watch(control, noun, name, limit, output))
        except KeyboardInterrupt:
            return
    items = session.call(lambda control: fetch(control, noun, name, limit))
    if output != "table":
        dump(items, output)
    elif items:
        print_table(noun.columns, [noun.row(i) for i in items], fold=noun.fold)
    else:
        say(f"No {noun.plural}{f' of {name}' if name else ''}.")


async def fetch(control: ControlClient, noun: Noun, name: str | None, limit: int) -> list[Object]:
    """The objects as they are now."""
    match noun.plural:
        case "models":
            return [await control.model(name)] if name else await control.models()
        case "versions":
            return await control.versions(name)
        case "replicas":
            return await control.replicas(name)
        case "rollouts":
            return await control.rollouts(name)
        case _:
            if name:
                await control.model(name)  # an unknown name is an error, not an empty list
            return await control.events(model=name, limit=limit)


async def _watch(
    control: ControlClient, noun: Noun, name: str | None, limit: int, output: str
) -> None:
    newest = await control.events(limit=1)
    after = newest[-1]["seq"] if newest else 0
    items = await fetch(control, noun, name, limit)
    shower = (
        _Appender(noun, output) if output == "json" or not sys.stdout.isatty() else _Redrawer(noun)
    )
    with shower:
        shower.show(items)
        async with aclosing(control.watch(after=after, model=name)) as events:
            async for event in events:
                if event["type"].startswith("stream."):
                    say(event["message"])
                elif noun.plural == "events":
                    items = [*items, event][-limit:]
                    shower.show(items)
                else:
                    shower.show(await _now(control, noun, name))


async def _now(control: ControlClient, noun: Noun, name: str | None) -> list[Object]:
    from gateway.domain.errors import NotFound

    try:
        return await fetch(control, noun, name, 1)
    except NotFound:
        return []


class _Appender:
    """Prints each object when it is first seen and whenever it has changed."""

    def __init__(self, noun: Noun, output: str) -> None:
        self._noun = noun
        self._output = output
        self._shown: dict[tuple[Any, ...], Object] = {}
        self._headed = False

    def __enter__(self) -> _Appender:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def show(self, items: list[Object]) -> None:
        """Print what is new. Only what is there now is remembered, so memory stays bounded."""
        fresh = [i for i in items if self._shown.get(self._noun.identity(i)) != i]
        self._shown = {self._noun.identity(i): i for i in items}
        if self._output == "json":
            for item in fresh:
                line(item)
        elif fresh:
            grid = table(
                self._noun.columns, [self._noun.row(i) for i in fresh], fold=self._noun.fold
            )
            grid.show_header, self._headed = not self._headed, True
            show(grid)
            sys.stdout.flush()


class _Redrawer:
    """Draws the whole table anew on a terminal."""

    def __init__(self, noun: Noun) -> None:
        from rich.live import Live

        self._noun = noun
        self._live = Live(console=console(), auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> _Redrawer:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, items: list[Object]) -> None:
        """Draw; of events only what fits, the newest."""
        rows = [self._noun.row(i) for i in items]
        if self._noun.plural == "events":
            rows = rows[-max(1, self._live.console.height - 4) :]
        self._live.update(table(self._noun.columns, rows, fold=self._noun.fold), refresh=True)
