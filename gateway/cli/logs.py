"""`gateway logs`: what a model's replicas printed."""

from __future__ import annotations

import sys
from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from gateway.cli.session import Session, url_option

if TYPE_CHECKING:
    from gateway.client.control import ControlClient


@click.command(short_help="Print what a model's replicas printed.")
@click.argument("name")
@click.option(
    "--replica",
    metavar="ID",
    help="Only this one (see: gateway get replicas NAME), or ID/CONTAINER of a pod.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on as more is printed. Ctrl-C ends it.")
@url_option
@click.pass_obj
def logs(session: Session, name: str, replica: str | None, follow: bool) -> None:
    """Print the output of NAME's replicas.

    Lines begin with [replica], or with [replica/container] where it is a pod of several; with
    neither where only one is asked for.
    """
    try:
        session.call(lambda control: _copy(control, name, replica, follow))
    except KeyboardInterrupt:
        if not follow:
            raise


async def _copy(control: ControlClient, name: str, replica: str | None, follow: bool) -> None:
    out = sys.stdout.buffer
    async with aclosing(control.logs(name, replica=replica, follow=follow)) as chunks:
        async for chunk in chunks:
            out.write(chunk)
            out.flush()
