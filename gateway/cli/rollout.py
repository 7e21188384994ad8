"""`gateway rollout`: start, watch, steer and undo how what is new gets the traffic."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.output import console, dump, line, output_option
from gateway.cli.rows import clock_time
from gateway.cli.session import Session, url_option

if TYPE_CHECKING:
    from gateway.client.control import ControlClient

Object = dict[str, Any]

_EXAMPLES = """\b
Examples
  gateway deploy model resnet --canary 5,25,50   later versions go in steps
  gateway rollout status resnet --watch
  gateway rollout pause resnet
  gateway rollout undo resnet                    back to the version before
"""

_LOOK_S = 0.5
_OVER = ("succeeded", "failed")


@click.group(epilog=_EXAMPLES)
def rollout() -> None:
    """Watch and steer how a new version, image or command gets its traffic."""


def _steers(action: str, help_text: str) -> None:
    """Add the command of one action that takes a model's name and nothing else."""

    @rollout.command(action, help=help_text)
    @click.argument("name")
    @output_option
    @url_option
    @click.pass_obj
    def command(session: Session, name: str, output: str) -> None:
        _tell(session.call(lambda control: control.rollout(name, action)), output)


@rollout.command("start")
@click.argument("name")
@click.option(
    "--version",
    type=click.IntRange(0),
    metavar="N",
    help="The version. [what was deployed and rolled back, else the newest in the source]",
)
@output_option
@url_option
@click.pass_obj
def start(session: Session, name: str, version: int | None, output: str) -> None:
    """Roll out a version, or what was deployed, also if it was rolled back before.

    What is new begins by itself.
    """
    _tell(session.call(lambda control: control.rollout(name, "start", version)), output)


@rollout.command("status")
@click.argument("name")
@click.option(
    "-w", "--watch", is_flag=True, help="Go on until it has ended; exit 1 if it was rolled back."
)
@output_option
@url_option
@click.pass_obj
def status(session: Session, name: str, watch: bool, output: str) -> None:
    """Show NAME's rollout: its steps, the verdict and the numbers behind it."""
    if watch and output == "yaml":
        raise click.UsageError("--watch speaks table or json")
    if watch:
        last = session.call(lambda control: _watch(control, name, output))
        if last["phase"] == "failed":
            raise click.exceptions.Exit(1)
        return
    found = session.call(lambda control: _newest(control, name))
    if output != "table":
        dump(found, output)
    else:
        click.echo(drawn(found))


_steers("pause", "Keep the weight as it is. A canary that is found worse is rolled back still.")
_steers("resume", "Go on with the steps.")
_steers("promote", "Give the new version all of the traffic now.")
_steers("abort", "Roll back to the stable version now.")
_steers("undo", "After success: go back to the version before, at once.")


async def _newest(control: ControlClient, name: str) -> Object:
    from gateway.domain.errors import NotFound

    found = await control.rollouts(name)
    if not found:
        raise NotFound(
            f"{name} has had no rollout. Give it steps (`gateway deploy model {name} --canary "
            "5,25,50`), and its next version goes that way.",
            reason="no_rollout",
        )
    return found[-1]


async def _watch(control: ControlClient, name: str, output: str) -> Object:
    """Show it until it has ended."""
    import asyncio

    with _shower(output) as shower:
        while True:
            found = await _newest(control, name)
            shower.show(found)
            if found["phase"] in _OVER:
                return found
            await asyncio.sleep(_LOOK_S)


class _Printer:
    """Prints it whenever something has changed that is not a mere count."""

    def __init__(self, write: Callable[[Object], None]) -> None:
        self._write = write
        self._shown: tuple[Any, ...] = ()

    def __enter__(self) -> _Printer:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def show(self, found: Object) -> None:
        """Print, if it is news."""
        keys = ("version", "phase", "step", "verdict")
        now = tuple(found[k] for k in keys)
        if now != self._shown:
            self._shown = now
            self._write(found)


class _Redrawer:
    """Draws it anew on a terminal."""

    def __init__(self) -> None:
        from rich.live import Live

        self._live = Live(console=console(), auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> _Redrawer:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, found: Object) -> None:
        """Draw."""
        from rich.text import Text

        self._live.update(Text(drawn(found)), refresh=True)


def _shower(output: str) -> _Printer | _Redrawer:
    if output == "json":
        return _Printer(line)
    if sys.stdout.isatty():
        return _Redrawer()

    def write(found: Object) -> None:
        click.echo(drawn(found) + "\n")
        sys.stdout.flush()

    return _Printer(write)


def _tell(found: Object, output: str) -> None:
    if output != "table":
        dump(found, output)
        return
    name, what = found["model"], brought(found)
    click.echo(f"Rollout of {name} {what}: {found['phase']}, {_weight(found)}.")
    if found["phase"] not in _OVER:
        click.echo(f"Watch it with: gateway rollout status {name} --watch")


# ---- drawing --------------------


def drawn(found: Object) -> str:
    """Its steps, the verdict and the numbers, in lines."""
    name, phase = found["model"], found["phase"]
    lines = [
        f"{name}: {brought(found)} instead of {_former(found)}{_own(found)}",
        f"{phase} since {clock_time(found['phase_at'])}, {_weight(found)}"
        + (f": {found['reason']}" if found["reason"] else ""),
        "",
        *_steps(found),
        "",
        *_numbers(found),
        *_agreement(found),
    ]
    if found["can"]:
        lines += ["", "Next: " + ", ".join(f"gateway rollout {a} {name}" for a in found["can"])]
    elif phase == "failed":
        version = "" if found["template"] else f" --version {found['version']}"
        lines += ["", f"Try it again with: gateway rollout start {name}{version}"]
    elif phase == "succeeded":
        lines += ["", f"Go back with: gateway rollout undo {name}"]
    return "\n".join(lines)


def brought(found: Object) -> str:
    """`version 4`, or `version 3 with template b1c2… (image X → Y)`."""
    version, change = f"version {found['version']}", found["template"]
    if change is None:
        return version
    return f"{version} with template {change['template']} ({', '.join(change['changes'])})"


def _former(found: Object) -> str:
    stable, change = found["stable_version"], found["template"]
    if change is None:
        return str(stable)
    template = f"template {change['stable_template']}"
    return template if stable == found["version"] else f"{stable} with {template}"


def _own(found: Object) -> str:
    """`, on 1 replica of its own`, where it has any."""
    count = found["canary_replicas"]
    return f", on {count} replica{'' if count == 1 else 's'} of its own" if count else ""


def _weight(found: Object) -> str:
    if found["phase"] == "succeeded":
        return "all of the traffic"
    return f"{found['weight'] * 100:g}% of the traffic"


def _steps(found: Object) -> list[str]:
    """`✓` passed, `▶` under way, `✗` where it failed, `·` to come."""
    percents, at, phase = [*found["steps"], 100.0], found["step"], found["phase"]
    if phase in ("promoting", "succeeded"):
        at = len(percents) - (phase == "promoting")
    lines = []
    for i, percent in enumerate(percents):
        mark, words = "·", ""
        if i < at:
            mark = "✓"
        elif i == at and phase != "pending":
            mark = "✗" if phase in ("rolling_back", "failed") else "▶"
            words = f"  {found['verdict']}: {found['verdict_reason'] or 'nothing seen yet'}"
        bar = "█" * max(1, round(percent / 5))
        lines.append(f"  {mark} {percent:>5g}%  {bar:<20}{words}".rstrip())
    return lines


def _numbers(found: Object) -> list[str]:
    rows = [("", "requests", "failed", "p50", "p99")]
    for label, side in (("canary", found["canary"]), ("stable", found["stable"])):
        row = (label, str(side["requests"]), str(side["failed"]))
        rows.append((*row, _ms(side["p50_s"]), _ms(side["p99_s"])))
    lines = ["  " + f"{a:<8}{b:>10}{c:>8}{d:>12}{e:>12}".rstrip() for a, b, c, d, e in rows]
    if found["evidence_limit"] is not None:
        lines.append(
            f"  evidence that it fails more {found['error_evidence']:g}, that it is slower "
            f"{found['latency_evidence']:g}; rolled back at {found['evidence_limit']:g}"
        )
    return lines


def _agreement(found: Object) -> list[str]:
    """What copies have shown, output by output; nothing where none are made."""
    shown = found["agreement"]
    if shown is None:
        return []
    needed = f" of {shown['needed']} that are needed" if shown["needed"] else ""
    rest = [f"{shown[what]} {what}" for what in ("failed", "skipped", "dropped") if shown[what]]
    lines = ["", f"  shadowed: {shown['compared']} compared{needed}"
             + "".join(f", {words}" for words in rest)]  # fmt: skip
    if shown["outputs"]:
        lines.append(f"  {'output':<20}{'differing':>10}{'flips':>9}{'max abs':>10}{'max rel':>10}"
                     f"{'cosine':>10}")  # fmt: skip
    for one in shown["outputs"]:
        cells = (_share(one["differing"]), _share(one["flips"]), f"{one['max_abs_error']:.3g}",
                 f"{one['max_rel_error']:.3g}", _cosine(one["mean_cosine"]))  # fmt: skip
        line = f"  {one['name'][:20]:<20}" + "{:>10}{:>9}{:>10}{:>10}{:>10}".format(*cells)
        lines.append(line + (f"  {one['mismatch']}" if one["mismatch"] else ""))
    if shown["needed"]:
        lines.append(f"  evidence that more differs than is allowed {shown['evidence']:g}")
    return lines


def _share(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio * 100:.3g}%"


def _cosine(cosine: float | None) -> str:
    return "-" if cosine is None else f"{cosine:.6f}"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.3g} ms"
