"""`gateway predict`: try a model from the shell, over either protocol, data spelt the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.session import Session, url_option

if TYPE_CHECKING:
    from gateway.client.calls import Target

MAX_DATA_BYTES = 1 << 30
"""A gibibyte of JSON; more has no business in a shell."""

_EXAMPLES = """\b
Examples
  gateway predict resnet --data '{"instances": [[1.0, 2.0]]}'
  gateway predict resnet --data '[[1.0, 2.0]]'        a bare list: instances
  gateway predict resnet --data @request.json --version 3
  gateway predict resnet --data - --protocol tfs-grpc < request.json
"""


@click.command(epilog=_EXAMPLES, short_help="Send one prediction and print the answer.")
@click.argument("name")
@click.option(
    "--data",
    required=True,
    metavar="JSON|@FILE|-",
    help='TensorFlow Serving\'s body, {"instances": …} or {"inputs": …}, or a bare list of '
    "instances; as text, from a file, or from stdin.",
)
@click.option("--version", type=click.IntRange(0, 2**63 - 1), help="Ask this version.")
@click.option("--label", help="Ask the version with this label.")
@click.option("--signature", metavar="S", help="Signature to call. [serving_default]")
@click.option(
    "--protocol",
    type=click.Choice(["tfs-rest", "tfs-grpc", "v2-rest", "v2-grpc"]),
    default="tfs-rest",
    show_default=True,
    help="What to speak; the answer looks the same. v2-* is not in this version.",
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
    help="How to print the answer. json is the server's own text.",
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
    if protocol.startswith("v2-"):
        raise click.UsageError(
            f"--protocol {protocol} is not offered in this version; use tfs-rest or tfs-grpc"
        )
    if version is not None and label is not None:
        raise click.UsageError("Say --version or --label, not both")
    body = request_body(data, signature)
    from gateway.client.calls import Target

    target = Target(name, version, label)
    if protocol == "tfs-rest":
        address = http or _address(session, "http")
        answer: bytes = _over_http(address, target, body, timeout_s)
    else:
        address = grpc or _address(session, "grpc")
        answer = _over_grpc(address, target, body, timeout_s)
    if output == "yaml":
        import yaml

        click.echo(yaml.safe_dump(json.loads(answer), sort_keys=False), nl=False)
    else:
        click.echo(answer.rstrip(b"\n"))


def request_body(data: str, signature: str | None) -> bytes:
    """The body to send. A TensorFlow Serving body goes as it was typed, so that what the server
    says of its offsets is true; a bare list is wrapped, and a signature written in.

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
    if signature is None:
        return text
    if value.get("signature_name", signature) != signature:
        raise click.UsageError(f'--signature {signature} contradicts "signature_name" in the data')
    return json.dumps({**value, "signature_name": signature}).encode()


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


def _address(session: Session, kind: str) -> str:
    from gateway.domain.errors import Unavailable

    address = session.call(lambda control: control.health())["addresses"].get(kind)
    if not address:
        raise Unavailable(
            f"The gateway at {session.url} says no {kind} address; name it with --{kind} HOST:PORT",
            reason="no_address",
        )
    return str(address)


def _over_http(address: str, target: Target, body: bytes, timeout_s: float) -> bytes:
    from gateway.client.predictions import Client

    where = address if "://" in address else f"http://{address}"
    with Client(where, timeout_s=timeout_s) as client:
        return client.post(f"{target.path}:predict", body)


def _over_grpc(address: str, target: Target, body: bytes, timeout_s: float) -> bytes:
    """The JSON is read and written here, by the signature, as a server reads and writes it."""
    from gateway.client.predictions import Client
    from gateway.codecs import tfs_json

    with Client(address, timeout_s=timeout_s) as client:
        signatures = client.signatures(target.model, version=target.version, label=target.label)
        call = tfs_json.decode_predict(body, signatures)
        found: dict[str, Any] = client.predict(
            target.model,
            call.inputs,
            version=target.version,
            label=target.label,
            signature=call.signature_name,
        )
    text: bytes = tfs_json.encode_predict(found, call.row_form)
    return text
