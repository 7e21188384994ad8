"""The command tree, its global options, and the one place where errors become exit codes.

0 done · 1 refused or failed (the message says what to do next) · 2 wrong usage · 130 interrupted.
stdout carries results only; everything said besides goes to stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from gateway import __version__
from gateway.cli import (
    deploy,
    describe,
    doctor,
    get,
    logs,
    manage,
    predict,
    publish,
    rollout,
    serve,
    snippet,
    top,
)
from gateway.cli.session import Session
from gateway.domain.errors import GatewayError

_EPILOG = """\b
Begin with
  gateway serve
  gateway publish ./my-model s3://models/resnet
  gateway deploy model resnet --source s3://models/resnet
  gateway predict resnet --data '{"instances": [[1.0, 2.0]]}'
"""


class _InOrder(click.Group):
    """Lists its commands in the order of a model's life, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """As they were added."""
        return list(self.commands)


@click.group(
    cls=_InOrder,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)
@click.option(
    "--url",
    envvar="GATEWAY_URL",
    metavar="URL",
    help="Address of the control API. Else GATEWAY_URL, else `url` in the config file, else "
    "http://127.0.0.1:8080.",
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The client's config file (default ~/.config/gateway/config.toml).",
)
@click.version_option(__version__, prog_name="gateway", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context, url: str | None, config_file: Path | None) -> None:
    """Serve models: predictions over HTTP and gRPC, from replicas that this gateway runs."""
    context.obj = Session(url, config_file)


for _command in (
    serve.serve,
    deploy.deploy,
    publish.publish,
    get.get,
    describe.describe,
    predict.predict,
    snippet.snippet,
    rollout.rollout,
    manage.scale,
    manage.delete,
    logs.logs,
    top.top,
    doctor.doctor,
):
    cli.add_command(_command)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code and never raises but for GATEWAY_DEBUG=1."""
    try:
        code = cli.main(args=list(arguments), prog_name="gateway", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return 130
    except GatewayError as error:
        click.echo(f"Error: {error.message}", err=True)
        if error.retry_after_s:
            click.echo(f"Try again in {error.retry_after_s:.0f} s.", err=True)
        return 1
    except BrokenPipeError:
        # `gateway get events | head`: the reader has seen enough. Keep the interpreter from
        # complaining when it flushes stdout at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # main: the last place, which turns bugs into words
        if os.environ.get("GATEWAY_DEBUG") == "1":
            raise
        click.echo(
            f"Error: {type(error).__name__}: {error}\n"
            "This is a bug in the gateway's command line. Run the same command with "
            "GATEWAY_DEBUG=1 and report what it prints.",
            err=True,
        )
        return 1
