"""`gateway scale model` and `gateway delete model`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.output import dump, output_option, say
from gateway.cli.session import NounGroup, Session, url_option

if TYPE_CHECKING:
    from gateway.client.control import ControlClient


@click.group(cls=NounGroup)
def scale() -> None:
    """Change how many replicas a model has."""


@scale.command("model")
@click.argument("name")
@click.option("--replicas", type=click.IntRange(1, 1000), required=True, help="How many.")
@output_option
@url_option
@click.pass_obj
def scale_model(session: Session, name: str, replicas: int, output: str) -> None:
    """Give NAME this many replicas. Returns at once; surplus ones finish what they have begun."""
    told = session.call(lambda control: control.scale(name, replicas))
    if output != "table":
        dump(told, output)
    else:
        click.echo(
            f"{name} goes to {replicas} replica{'' if replicas == 1 else 's'} "
            f"({told['ready_replicas']} ready now). "
            f"Watch it with: gateway get replicas {name} --watch"
        )


@click.group(cls=NounGroup)
def delete() -> None:
    """Remove a model."""


@delete.command("model")
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask (it asks only on a terminal).")
@click.option("--no-wait", is_flag=True, help="Return before the replicas have stopped.")
@click.option(
    "--timeout",
    "wait_s",
    type=click.FloatRange(0, min_open=True),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the replicas to stop.",
)
@output_option
@url_option
@click.pass_obj
def delete_model(
    session: Session, name: str, yes: bool, no_wait: bool, wait_s: float, output: str
) -> None:
    """Stop answering for NAME and end its replicas. Its files in the source stay."""
    asks = not yes and sys.stdin.isatty() and sys.stdout.isatty()
    if asks and not click.confirm(f"Stop answering for {name} and end its replicas?", err=True):
        say(f"{name} stays as it is.")
        raise click.exceptions.Exit(1)
    told = session.call(lambda control: _delete(control, name, None if no_wait else wait_s))
    if output != "table":
        dump(told, output)
    elif no_wait:
        click.echo(f"{name} is being deleted.")
    else:
        click.echo(f"{name} is deleted. Its files in {told['source']} are untouched.")


async def _delete(control: ControlClient, name: str, wait_s: float | None) -> dict[str, Any]:
    import asyncio

    from gateway.domain.errors import DeadlineExceeded, NotFound

    told = await control.delete(name)
    if wait_s is None:
        return told
    say(f"{name}: finishing what it has begun")
    try:
        async with asyncio.timeout(wait_s):
            while True:
                # A look each half second, not the event stream: the end of a model is that it is
                # not there, and an event of another model of the same name would mean nothing.
                await _seen(control, name)
                await asyncio.sleep(0.5)
    except NotFound:
        return told
    except TimeoutError as error:
        raise DeadlineExceeded(
            f"{name} is still being deleted after {wait_s:.0f} s. It goes on; look with: "
            f"gateway describe model {name}",
            reason="call",
        ) from error


async def _seen(control: ControlClient, name: str) -> None:
    """One look, which may take some: a gateway that is replaced, or whose database is away for a
    moment, ends no wait.

    Raises:
        NotFound: the model is gone. Unavailable: there was no answer for PATIENCE_S.
    """
    import asyncio

    from gateway.cli.waiting import LOOK_S, PATIENCE_S
    from gateway.domain.errors import Unavailable, UpstreamFailed

    loop = asyncio.get_running_loop()
    since = loop.time()
    while True:
        try:
            await control.model(name)
        except (Unavailable, UpstreamFailed) as error:
            if loop.time() - since > PATIENCE_S:
                raise Unavailable(
                    f"{error.message} The deletion was accepted and goes on when the gateway is "
                    "back.",
                    reason=error.reason,
                ) from error
        else:
            return
        await asyncio.sleep(LOOK_S)
