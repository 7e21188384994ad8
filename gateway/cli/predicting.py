"""One prediction of the shell: JSON in one protocol's form, asked in another where that is said.

Where both are the same the text goes through as it is. Else it is read here, with the servers' own
codecs, and the answer is written in the form of the request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.client import tfs_wires, v2_wires
from gateway.client.predictions import Client
from gateway.codecs import oip_json, tfs_json
from gateway.domain.tensors import DEFAULT_SIGNATURE

if TYPE_CHECKING:
    from gateway.cli.predict import Body
    from gateway.client.calls import Target


def ask(address: str, protocol: str, target: Target, body: Body, timeout_s: float) -> bytes:
    """The answer's JSON.

    Raises:
        GatewayError: what the server refused, or what the data cannot mean.
    """
    with Client(address, protocol=protocol, timeout_s=timeout_s) as client:
        if protocol == "tfs-rest" and not body.is_v2:
            return client.post(f"{tfs_wires.path_of(target)}:predict", body.text)
        # Outputs that are asked for as bytes are no text to print: those are read and written here.
        as_text = body.signature is None and b'"binary_data' not in body.text
        if protocol == "v2-rest" and body.is_v2 and as_text:
            return client.post(f"{v2_wires.path_of(target)}/infer", body.text)
        if body.is_v2:
            return _v2_form(client, target, body)
        if protocol.startswith("tfs-") or body.signature in (None, DEFAULT_SIGNATURE):
            return _tfs_form(client, client, target, body)
        # V2's metadata tells one signature only; the gateway tells all at the same address.
        telling = protocol.replace("v2-", "tfs-")
        with Client(address, protocol=telling, timeout_s=timeout_s) as other:
            return _tfs_form(client, other, target, body)


def _tfs_form(client: Client, telling: Client, target: Target, body: Body) -> bytes:
    signatures = telling.signatures(target.model, version=target.version, label=target.label)
    call = tfs_json.decode_predict(body.text, signatures)
    found = client.predict(
        target.model,
        call.inputs,
        version=target.version,
        label=target.label,
        signature=call.signature_name,
    )
    return tfs_json.encode_predict(found, call.row_form)


def _v2_form(client: Client, target: Target, body: Body) -> bytes:
    call = oip_json.decode_infer(body.text, None, None)
    found = client.predict(
        target.model,
        call.inputs,
        version=target.version,
        label=target.label,
        signature=body.signature or DEFAULT_SIGNATURE,
        outputs=[o.name for o in call.outputs] or None,
    )
    version = "" if target.version is None else str(target.version)
    _, text = oip_json.encode_infer(target.model, version, call.id, found)
    return text
