"""`gateway describe model`: everything that is known of one model, and why it is as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gateway.cli.output import cell, dump, output_option, print_table, show
from gateway.cli.rollout import drawn
from gateway.cli.rows import NOUNS
from gateway.cli.session import NounGroup, Session, url_option

if TYPE_CHECKING:
    from gateway.client.control import ControlClient

EVENTS = 10
"""The newest this many; `gateway get events NAME` has the rest."""


@click.group(cls=NounGroup)
def describe() -> None:
    """Show everything about one model."""


@describe.command("model")
@click.argument("name")
@output_option
@url_option
@click.pass_obj
def model(session: Session, name: str, output: str) -> None:
    """Show NAME with its versions, replicas, rollout and latest events.

    json is one object with the keys model, versions, replicas, rollouts and events.
    """
    told = session.call(lambda control: _fetch(control, name))
    if output != "table":
        dump(told, output)
        return
    _facts(told["model"])
    for kind in ("versions", "replicas"):
        _table(kind, told[kind])
    for rollout in told["rollouts"]:
        click.echo("\nRollout\n" + drawn(rollout))
    _table("events", told["events"])


def _table(kind: str, items: list[dict[str, Any]]) -> None:
    noun = NOUNS[kind]
    click.echo(f"\n{kind.capitalize()}")
    if items:
        print_table(noun.columns, [noun.row(i) for i in items], fold=noun.fold)
    else:
        click.echo("none")


async def _fetch(control: ControlClient, name: str) -> dict[str, Any]:
    return {
        "model": await control.model(name),
        "versions": await control.versions(name),
        "replicas": await control.replicas(name),
        "rollouts": await control.rollouts(name),
        "events": await control.events(model=name, limit=EVENTS),
    }


def _facts(model: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    source_trouble = model["source_reason"]
    if source_trouble and model["source_failing_since"]:
        source_trouble = f"since {model['source_failing_since']}: {source_trouble}"
    shown = {
        "Name": model["name"],
        "State": model["state"],
        "Reason": model["reason"],
        "Backend": model["backend"],
        "Source": model["source"],
        "Source unreadable": source_trouble,
        "Live version": model["live_version"],
        "Available versions": model["versions"],
        "Policy": model["policy"],
        "Labels": model["labels"],
        "Replicas": f"{model['ready_replicas']} of {model['replicas']} ready",
        "Template": template_words(model),
        "Scaling": _scaling(model),
        "Managed by": model["managed_by"],
        "Generation": model["generation"],
        "Created": model["created_at"],
        "Updated": model["updated_at"],
    }
    rest = {
        k: v for k, v in model["spec"].items() if k not in _SHOWN and v not in (None, "", [], {})
    }
    shown["Settings"] = " ".join(f"{k}={cell(v)}" for k, v in rest.items())
    for label, value in shown.items():
        if value not in (None, "", [], {}):
            grid.add_row(label, Text(cell(value)))
    show(grid)


def template_words(model: dict[str, Any]) -> str:
    """What its replicas run with, and what becomes of what was deployed, where that is another."""
    found = model["template"]
    if found is None:
        return ""
    running, deployed = found["running"], found["deployed"]
    if running == deployed:
        return str(running)
    new = f"the deployed {deployed} ({', '.join(found['changes'])})"
    if found["rejected"]:
        return (
            f"{running} runs; {new} was rolled back. Try it again with: gateway rollout start "
            f"{model['name']}"
        )
    return f"{running} runs; {new} is being rolled out"


def _scaling(model: dict[str, Any]) -> str:
    """`0 to 4, 8 in flight each; 12.3 in flight now; 2026-…: 12.3 in flight per replica …`"""
    spec = model["spec"]
    if model["max_replicas"] is None:
        return ""
    parts = [
        f"{model['min_replicas']} to {model['max_replicas']} replicas, "
        f"{spec['target_in_flight']:g} in flight each"
    ]
    if model["in_flight"] is not None:
        parts.append(f"{model['in_flight']:.1f} in flight on average")
    if model["scale_reason"]:
        parts.append(f"{model['replicas']} since {model['scaled_at']}: {model['scale_reason']}")
    return "; ".join(parts)


_SHOWN = {
    *("source", "backend", "versions", "labels", "name"),
    *("replicas", "min_replicas", "max_replicas", "target_in_flight"),
}
