"""Python, with the SDK or with what comes with Python."""

from __future__ import annotations

import json
from typing import Any

from gateway.cli.snippets.asking import Input, Plan, one_line, quoted
from gateway.domain.tensors import DType

_NUMPY = {
    DType.HALF: "np.float16",
    DType.FLOAT: "np.float32",
    DType.DOUBLE: "np.float64",
    DType.BFLOAT16: "ml_dtypes.bfloat16",
    DType.STRING: "object",
    DType.BOOL: "np.bool_",
}


def sdk(plan: Plan) -> str:
    """With gateway.client and numpy."""
    arrays = "".join(
        f"        {quoted(i.name)}: {_array(i)},  # {one_line(i.note)}\n" for i in plan.inputs
    )
    more = {
        "version": plan.target.version,
        "label": plan.target.label,
        "signature": plan.named_signature,
    }
    keywords = "".join(f"        {k}={_literal(v)},\n" for k, v in more.items() if v is not None)
    wants_bfloat16 = any(i.spec.dtype is DType.BFLOAT16 for i in plan.inputs)
    where = plan.address if plan.protocol.endswith("grpc") else f"http://{plan.address}"
    return (
        f"# {plan.title}\n# pip install model-gateway\n"
        f"{'import ml_dtypes' + chr(10) if wants_bfloat16 else ''}import numpy as np\n\n"
        "from gateway.client import Client\n\n"
        f"inputs = {{\n{arrays.replace('        ', '    ')}}}\n"
        f"with Client({quoted(where)}, protocol={quoted(plan.protocol)}) as client:\n"
        f"    outputs = client.predict(\n        {quoted(plan.target.model)},\n        inputs,\n"
        f"{keywords}        timeout_s=30.0,\n    )\n"
        "for name, array in outputs.items():\n"
        "    print(name, array.dtype, array.shape)\n    print(array)\n"
    )


def _array(one: Input) -> str:
    dtype = _NUMPY.get(one.spec.dtype, f"np.{one.spec.dtype.label}")
    if one.is_literal:
        return f"np.array({_literal(one.nested)}, dtype={dtype}){_reshaped(one)}"
    return f"np.full({one.shape!r}, {_literal(one.fill)}, dtype={dtype})"


def _reshaped(one: Input) -> str:
    """Lists do not tell a shape behind a dimension without elements."""
    return f".reshape({one.shape!r})" if 0 in one.shape[:-1] else ""


def _literal(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    return quoted(value) if isinstance(value, str) else repr(value)


def stdlib(plan: Plan) -> str:
    """With urllib and json."""
    helper = "" if plan.is_literal or plan.is_v2 else _NESTED
    return (
        f"# {plan.title}\nimport json\nimport urllib.error\nimport urllib.request\n\n{helper}"
        f"{_body(plan)}"
        f"request = urllib.request.Request(\n    {quoted(plan.url)},\n"
        "    data=json.dumps(body).encode(),\n"
        '    headers={"Content-Type": "application/json"},\n)\n'
        "try:\n    with urllib.request.urlopen(request, timeout=30) as answer:\n"
        '        outputs = json.load(answer)["outputs"]\n'
        "except urllib.error.HTTPError as error:\n"
        '    raise SystemExit(f"{error.code}: {error.read().decode()}") from error\n'
        "print(json.dumps(outputs))\n"
    )


_NESTED = """
def tensor(shape, value):
    return [tensor(shape[1:], value) for _ in range(shape[0])] if shape else value


"""


def _body(plan: Plan) -> str:
    rest = "".join(f"    {quoted(k)}: {_json(v)},\n" for k, v in plan.rest_of_body().items())
    if plan.is_v2:
        inputs = "".join(
            "        {\n"
            f'            "name": {quoted(i.name)},\n'
            f'            "datatype": {quoted(i.datatype)},  # {one_line(i.note)}\n'
            f'            "shape": {list(i.shape)!r},\n'
            f'            "data": {_flat(i)},\n'
            "        },\n"
            for i in plan.inputs
        )
        return f'body = {{\n{rest}    "inputs": [\n{inputs}    ],\n}}\n'
    inputs = "".join(
        f"        {quoted(i.name)}: {_nested(i)},  # {one_line(i.note)}\n" for i in plan.inputs
    )
    return f'body = {{\n{rest}    "inputs": {{\n{inputs}    }},\n}}\n'


def _flat(one: Input) -> str:
    if one.is_literal:
        return _literal(one.flat)
    size = 1
    for dimension in one.shape:
        size *= dimension
    return f"[{_literal(one.fill)}] * {size}"


def _nested(one: Input) -> str:
    return (
        _literal(one.nested)
        if one.is_literal
        else f"tensor({list(one.shape)!r}, {_literal(one.fill)})"
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
