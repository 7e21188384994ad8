"""A JavaScript module around fetch, for browsers, Node.js, Deno and Bun."""

from __future__ import annotations

import json
import math

from gateway.cli.snippets.asking import Input, Plan, one_line, quoted

_NESTED = """\
const tensor = ([size, ...rest], value) =>
  size === undefined ? value : Array.from({ length: size }, () => tensor(rest, value));
"""


def module(plan: Plan) -> str:
    """An ES module; run a file of it with `node predict.mjs`."""
    needs_nested = not plan.is_literal and not plan.is_v2
    return (
        f"// {plan.title}\n// node predict.mjs\n{_NESTED if needs_nested else ''}"
        f"{_body(plan)}"
        f"const answer = await fetch({quoted(plan.url)}, {{\n"
        '  method: "POST",\n  headers: { "Content-Type": "application/json" },\n'
        "  body: JSON.stringify(body),\n  signal: AbortSignal.timeout(30_000),\n});\n"
        "if (!answer.ok) {\n  throw new Error(`${answer.status}: ${await answer.text()}`);\n}\n"
        "const { outputs } = await answer.json();\n"
        "console.log(JSON.stringify(outputs));\n"
    )


def _body(plan: Plan) -> str:
    rest = "".join(
        f"  {quoted(k)}: {json.dumps(v, ensure_ascii=False)},\n"
        for k, v in plan.rest_of_body().items()
    )
    if plan.is_v2:
        inputs = "".join(
            f"    {{\n      name: {quoted(i.name)},\n"
            f"      datatype: {quoted(i.datatype)}, // {one_line(i.note)}\n"
            f"      shape: {json.dumps(list(i.shape))},\n      data: {_data(i)},\n    }},\n"
            for i in plan.inputs
        )
        return f"const body = {{\n{rest}  inputs: [\n{inputs}  ],\n}};\n"
    inputs = "".join(
        # In brackets: `"__proto__": …` would set the prototype.
        f"    [{quoted(i.name)}]: {_nested(i)}, // {one_line(i.note)}\n"
        for i in plan.inputs
    )
    return f"const body = {{\n{rest}  inputs: {{\n{inputs}  }},\n}};\n"


def _data(one: Input) -> str:
    if one.is_literal:
        return json.dumps(one.flat)
    return f"Array({math.prod(one.shape)}).fill({json.dumps(one.fill)})"


def _nested(one: Input) -> str:
    if one.is_literal:
        return json.dumps(one.nested)
    return f"tensor({json.dumps(list(one.shape))}, {json.dumps(one.fill)})"
