"""`gateway predict`: try a model from the shell, over any protocol, data spelt the same."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from gateway.cli.session import Session, url_option

MAX_DATA_BYTES = 1 << 30
"""A gibibyte of JSON; more has no business in a shell."""

_EXAMPLES = """\b
Examples
  gateway predict resnet --data '{"instances": [[1.0, 2.0]]}'
  gateway predict resnet --data '[[1.0, 2.0]]'        a bare list: instances
  gateway predict resnet --data @request.json --version 3
  gateway predict resnet --data - --protocol v2-grpc < request.json
  gateway predict resnet --protocol v2-rest --data '{"inputs": [
      {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}'
"""


@click.command(epilog=_EXAMPLES, short_help="Send one prediction and print the answer.")
@click.argument("name")
@click.option(
    "--data",
    required=True,
    metavar="JSON|@FILE|-",
    help='TensorFlow Serving\'s body, {"instances": …} or {"inputs": …}, a bare list of instances, '
    'or V2\'s body, {"inputs": [{"name", "shape", "datatype", "data"}]}; as text, from a file, or '
    "from stdin. Any of them goes with any protocol.",
)
@click.option("--version", type=click.IntRange(0, 2**63 - 1), help="Ask this version.")
@click.option("--label", help="Ask the version with this label.")
@click.option("--signature", metavar="S", help="Signature to call. [serving_default]")
@click.option(
    "--protocol",
    type=click.Choice(["tfs-rest", "tfs-grpc", "v2-rest", "v2-grpc"]),
    default="tfs-rest",
    show_default=True,
    help="What to speak. The answer has the form of the data, whatever is spoken.",
)
@click.option("--http", metavar="H:P", help="HTTP address. [asked of the control API]")
@click.option("--grpc", metavar="H:P", help="gRPC address. [asked of the control API]")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Deadline.",
)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["json", "yaml"]),
    default="json",
    show_default=True,
    help="How to print the answer. json is the server's own text, where no form was changed.",
)
@url_option
@click.pass_obj
def predict(
    session: Session,
    name: str,
    data: str,
    version: int | None,
    label: str | None,
    signature: str | None,
    protocol: str,
    http: str | None,
    grpc: str | None,
    timeout_s: float,
    output: str,
) -> None:
    """Send one prediction to NAME and print the answer."""
    if version is not None and label is not None:
        raise click.UsageError("Say --version or --label, not both")
    body = request_body(data, signature)
    if label is not None and protocol.startswith("v2-"):
        version, label = version_of(session, name, label), None
    from gateway.cli import predicting
    from gateway.client.calls import Target

    kind = "grpc" if protocol.endswith("grpc") else "http"
    address = (grpc if kind == "grpc" else http) or address_of(session, kind)
    answer = predicting.ask(address, protocol, Target(name, version, label), body, timeout_s)
    if output == "yaml":
        import yaml

        click.echo(yaml.safe_dump(json.loads(answer), sort_keys=False), nl=False)
    else:
        click.echo(answer.rstrip(b"\n"))


@dataclass(frozen=True, slots=True)
class Body:
    """What is to be sent, as it was typed."""

    text: bytes
    is_v2: bool
    signature: str | None
    """Of --signature, or in a TensorFlow Serving body, which has it written in already."""


def request_body(data: str, signature: str | None) -> Body:
    """The body to send. It goes as it was typed, so that what the server says of its offsets is
    true; a bare list is wrapped, and a signature written in.

    Raises:
        click.UsageError: no JSON, or neither an object nor a list.
    """
    text = _read(data)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = "" if data[:1] in "@-[{" else " (a file is written @FILE)"
        raise click.UsageError(f"--data is not JSON: {error}{hint}") from error
    if isinstance(value, list):
        text = b'{"instances":%s}' % text.strip()
        value = {"instances": value}
    if not isinstance(value, dict):
        raise click.UsageError(
            '--data must be {"instances": [...]}, {"inputs": ...}, or a list of instances'
        )
    if _is_v2(value):
        return Body(text, True, signature)
    if signature is None:
        named = value.get("signature_name")
        return Body(text, False, named if isinstance(named, str) and named else None)
    if value.get("signature_name", signature) != signature:
        raise click.UsageError(f'--signature {signature} contradicts "signature_name" in the data')
    return Body(json.dumps({**value, "signature_name": signature}).encode(), False, signature)


def _is_v2(value: dict[str, Any]) -> bool:
    """Whether it is V2's body. TensorFlow Serving's has no list of such objects: a tensor's
    elements are no objects but `{"b64": …}`."""
    inputs = value.get("inputs")
    return (
        isinstance(inputs, list)
        and bool(inputs)
        and all(isinstance(i, dict) and {"name", "datatype", "shape"} <= i.keys() for i in inputs)
    )


def _read(data: str) -> bytes:
    try:
        if data == "-":
            text = sys.stdin.buffer.read(MAX_DATA_BYTES + 1)
        elif data.startswith("@"):
            with Path(data[1:]).expanduser().open("rb") as file:
                text = file.read(MAX_DATA_BYTES + 1)
        else:
            text = data.encode()
    except OSError as error:
        raise click.UsageError(f"--data {data}: {error.strerror}") from error
    if len(text) > MAX_DATA_BYTES:
        raise click.UsageError(f"--data is larger than {MAX_DATA_BYTES} bytes")
    return text


def version_of(session: Session, name: str, label: str) -> int:
    """The version that has the label now. V2 knows no labels, the control API does.

    Raises:
        NotFound: no model of that name.
        InvalidRequest: it has no such label; in TensorFlow Serving's words.
    """
    from gateway.domain.errors import InvalidRequest

    labels = session.call(lambda control: control.model(name))["labels"]
    if label not in labels:
        raise InvalidRequest(
            f"Unrecognized servable version label: {label}. {name} has: "
            f"{', '.join(sorted(labels)) or 'none'}",
            reason="label_unknown",
        )
    return int(labels[label])


def address_of(session: Session, kind: str) -> str:
    """Where the gateway takes predictions, as it can be reached from here: one that listens on
    every address by the name under which its control API was."""
    from gateway.domain.errors import Unavailable

    address = session.call(lambda control: control.health())["addresses"].get(kind)
    if not address:
        raise Unavailable(
            f"The gateway at {session.url} says no {kind} address; name it with --{kind} HOST:PORT",
            reason="no_address",
        )
    host, _, port = str(address).rpartition(":")
    if host not in ("0.0.0.0", "[::]"):
        return str(address)
    known = urlsplit(session.url).hostname or "localhost"
    return f"[{known}]:{port}" if ":" in known else f"{known}:{port}"
