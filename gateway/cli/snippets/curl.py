"""A shell script around curl; awk fills tensors that are too large to write out."""

from __future__ import annotations

import json
import math
import shlex
from typing import Any

from gateway.cli.snippets.asking import Input, Plan

_TENSOR = """\
tensor() { # VALUE SHAPE: the same value in nested lists
  awk -v value="$1" -v shape="$2" '
    function emit(depth, at) {
      if (depth > rank) { printf "%s", value; return }
      printf "["
      for (at = 0; at < size[depth]; at++) { if (at) printf ","; emit(depth + 1) }
      printf "]"
    }
    BEGIN { rank = split(shape, size, " "); emit(1) }'
}
"""


def script(plan: Plan) -> str:
    """For bash or any POSIX shell."""
    head = f"#!/bin/sh\n# {plan.title}\nset -e\n"
    curl = (
        f"curl --silent --show-error --fail-with-body --max-time 30 {shlex.quote(plan.url)} \\\n"
        "  --header 'Content-Type: application/json' \\\n  --data-binary @-"
    )
    if plan.is_literal:
        return f"{head}{curl} <<'JSON'\n{_text(plan)}\nJSON\n"
    return f"{head}{_TENSOR}{{\n{_pieces(plan)}}} | {curl}\n"


def _text(plan: Plan) -> str:
    # ASCII only, so that no locale can change it, and no line can be the end mark.
    rest = "".join(f"{json.dumps(k)}: {json.dumps(v)}, " for k, v in plan.rest_of_body().items())
    inputs = ",\n  ".join(
        json.dumps(_v2(i) | {"data": i.flat})
        if plan.is_v2
        else f"{json.dumps(i.name)}: {json.dumps(i.nested)}"
        for i in plan.inputs
    )
    opened, closed = "[]" if plan.is_v2 else "{}"
    return f'{{{rest}"inputs": {opened}\n  {inputs}\n{closed}}}'


def _v2(one: Input) -> dict[str, Any]:
    return {"name": one.name, "datatype": one.datatype, "shape": list(one.shape)}


def _pieces(plan: Plan) -> str:
    rest = "".join(f"{json.dumps(k)}:{json.dumps(v)}," for k, v in plan.rest_of_body().items())
    lines = [_printed(f'{{{rest}"inputs":{"[" if plan.is_v2 else "{"}')]
    for at, one in enumerate(plan.inputs):
        head = json.dumps(_v2(one))[:-1] + ', "data":' if plan.is_v2 else json.dumps(one.name) + ":"
        lines.append(_printed(("," if at else "") + head))
        if one.is_literal:
            lines.append(_printed(json.dumps(one.flat if plan.is_v2 else one.nested)))
        else:
            shape = str(math.prod(one.shape)) if plan.is_v2 else " ".join(map(str, one.shape))
            lines.append(f"  tensor {shlex.quote(json.dumps(one.fill))} {shlex.quote(shape)}\n")
        if plan.is_v2:
            lines.append(_printed("}"))
    lines.append(_printed("]}" if plan.is_v2 else "}}"))
    return "".join(lines)


def _printed(text: str) -> str:
    return f"  printf '%s' {shlex.quote(text)}\n"
