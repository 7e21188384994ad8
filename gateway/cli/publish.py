"""`gateway publish`: upload one version so that it appears whole or not at all.

Runs here and not in the gateway, because the files and the credentials for the storage are the
caller's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gateway.cli.output import bytes_text, console, dump, output_option, say
from gateway.cli.session import run_async

_EXAMPLES = """\b
Examples
  gateway publish ./export s3://models/resnet            the next number
  gateway publish ./export s3://models/resnet --version 7
  gateway publish ./export ./repository/resnet           a folder here

\b
Credentials and endpoints come from the environment (AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, …), as obstore documents them.
"""


@click.command(epilog=_EXAMPLES, short_help="Upload a version, whole or not at all.")
@click.argument(
    "directory", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False)
)
@click.argument("uri", metavar="URI")
@click.option(
    "--version",
    type=click.IntRange(0, 2**63 - 1),
    help="Its number. Left out: one more than the highest there is.",
)
@output_option
def publish(directory: Path, uri: str, version: int | None, output: str) -> None:
    """Upload the files in DIR as one version of the model folder URI.

    Files first, then a manifest with their sizes and sha256, then the pointer that makes the
    version visible. A gateway that watches URI loads it within seconds.
    """
    from gateway.cli.deploy_request import source_uri
    from gateway.sources.publish import publish as publish_version

    where = source_uri(uri)
    with _Shown() as progress:
        done = run_async(publish_version(directory, where, version, progress, warn=say))
    told = {
        "version": done.version,
        "uri": f"{where.rstrip('/')}/{done.version}",
        "source": where,
        "total_bytes": done.total_bytes,
        "files": list(done.files),
        "fingerprint": done.fingerprint,
    }
    if output != "table":
        dump(told, output)
        return
    click.echo(f"Version {done.version} is at {told['uri']} ({bytes_text(done.total_bytes)}).")
    click.echo(f"\nServe it with:\n  gateway deploy model NAME --source {where}")


class _Shown:
    """Shows (bytes done, bytes in all): a bar on a terminal, a line for each tenth elsewhere."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._tenth = -1

    def __enter__(self) -> Callable[[int, int], None]:
        if sys.stderr.isatty():
            from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

            self._bar = Progress(
                "publishing",
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                console=console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task("", total=None)
            self._bar.start()
        return self._show

    def _show(self, done: int, total: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)
            return
        tenth = 10 * done // total if total else 10
        if tenth != self._tenth:
            self._tenth = tenth
            say(f"published {bytes_text(done)} of {bytes_text(total)}")

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
