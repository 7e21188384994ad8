"""`gateway snippet`: code that asks a model for a prediction, made from its live signature."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from gateway.cli.predict import address_of
from gateway.cli.session import Session, url_option

if TYPE_CHECKING:
    from gateway.client.calls import Target
    from gateway.domain.tensors import Signature

LANGUAGES = ("python", "curl", "go", "javascript")

_EXAMPLES = """\b
Examples
  gateway snippet resnet --language python > predict.py
  gateway snippet resnet --language python --stdlib --protocol v2-rest
  gateway snippet resnet --language curl | bash
  gateway snippet resnet --language go > main.go && go run main.go
  gateway snippet resnet --language javascript > predict.mjs
"""


@click.command(epilog=_EXAMPLES, short_help="Print ready-made client code for a model.")
@click.argument("name")
@click.option(
    "--language",
    "-l",
    type=click.Choice(LANGUAGES),
    required=True,
    help="python uses gateway.client and numpy; curl is a shell script; go and javascript need "
    "nothing but what comes with them.",
)
@click.option(
    "--protocol",
    type=click.Choice(["tfs-rest", "tfs-grpc", "v2-rest", "v2-grpc"]),
    help="What the code speaks; gRPC in python only. [tfs-grpc in python, else tfs-rest]",
)
@click.option("--stdlib", is_flag=True, help="python without gateway.client and numpy.")
@click.option("--version", type=click.IntRange(0, 2**63 - 1), help="Ask this version.")
@click.option("--label", help="Ask the version with this label (tfs-* only).")
@click.option("--signature", metavar="S", help="Signature to call. [serving_default]")
@click.option("--http", metavar="H:P", help="HTTP address. [asked of the control API]")
@click.option("--grpc", metavar="H:P", help="gRPC address. [asked of the control API]")
@url_option
@click.pass_obj
def snippet(
    session: Session,
    name: str,
    language: str,
    protocol: str | None,
    stdlib: bool,
    version: int | None,
    label: str | None,
    signature: str | None,
    http: str | None,
    grpc: str | None,
) -> None:
    """Print code that asks NAME for a prediction and prints the answer.

    Names, types and shapes are those of the live signature; the values are examples, and a
    dimension of any size is 1.
    """
    if stdlib and language != "python":
        raise click.UsageError("--stdlib is for --language python; the others have nothing else")
    sdk = language == "python" and not stdlib
    protocol = protocol or ("tfs-grpc" if sdk else "tfs-rest")
    if protocol.endswith("grpc") and not sdk:
        raise click.UsageError(
            f"{'--stdlib' if stdlib else language} has no gRPC: use tfs-rest or v2-rest, or "
            "--language python"
        )
    if version is not None and label is not None:
        raise click.UsageError("Say --version or --label, not both")
    if label is not None and protocol.startswith("v2-"):
        raise click.UsageError("V2 knows no labels: say --version, or --protocol tfs-rest")
    from gateway.cli import snippets
    from gateway.client.calls import Target, choose
    from gateway.domain.tensors import DEFAULT_SIGNATURE

    target = Target(name, version, label)
    asked = reachable(http or address_of(session, "http"), session.url)
    signature = signature or DEFAULT_SIGNATURE
    spec = choose(_signatures(asked, target), signature, name)
    if protocol.endswith("grpc"):
        asked = reachable(grpc or address_of(session, "grpc"), session.url)
    plan = snippets.plan(target, signature, spec, protocol, asked, in_json=not sdk)
    click.echo(snippets.code(plan, "stdlib" if stdlib else language), nl=False)


def _signatures(address: str, target: Target) -> dict[str, Signature]:
    from gateway.client.predictions import Client

    with Client(address, protocol="tfs-rest") as client:
        found = client.signatures(target.model, version=target.version, label=target.label)
    return dict(found)


def reachable(address: str, control_url: str) -> str:
    """`address` for a caller elsewhere: a gateway that listens on every address (0.0.0.0) is
    reached where its control API is."""
    address = address.removeprefix("http://").removeprefix("grpc://").rstrip("/")
    host, _, port = address.rpartition(":")
    if host not in ("0.0.0.0", "[::]", "::", ""):
        return address
    known = urlsplit(control_url).hostname or "localhost"
    return f"[{known}]:{port}" if ":" in known else f"{known}:{port}"
