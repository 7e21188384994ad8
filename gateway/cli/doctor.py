"""`gateway doctor`: what is wrong with this installation, with the fix."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.cli.output import dump, output_option, print_table, say
from gateway.cli.session import Session, run_async, url_option


@click.command(short_help="Say what is wrong here, and how to mend it.")
@click.option(
    "--serve-config",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="GATEWAY.TOML",
    help="Look at the ports and the state directory of this `gateway serve --config`.",
)
@output_option
@url_option
@click.pass_obj
def doctor(session: Session, serve_config: Path | None, output: str) -> int:
    """Look for what is wrong with this installation, and say how to mend it.

    Exit code 1 if something is broken; warnings do not count.
    """
    from gateway import config
    from gateway.cli.checks import BROKEN, examine

    findings = run_async(examine(config.load({}, serve_config), session.url))
    broken = [f for f in findings if f.status == BROKEN]
    if output != "table":
        dump([f.as_object() for f in findings], output)
    else:
        rows = [(f.check, f.status, f.found, f.fix) for f in findings]
        print_table(("check", "status", "found", "fix"), rows, fold="fix")
    if broken:
        say(f"\n{len(broken)} broken: {', '.join(f.check for f in broken)}")
    return 1 if broken else 0
