"""A Go program with nothing but the standard library, formatted as gofmt would."""

from __future__ import annotations

import json
import math
from typing import Any

from gateway.cli.snippets.asking import Input, Plan, one_line, quoted
from gateway.domain.tensors import DType

_ELEMENT = {
    DType.FLOAT: "float32",
    DType.DOUBLE: "float64",
    DType.STRING: "string",
    # encoding/json writes []uint8 as base64 text.
    DType.UINT8: "int",
}

_NESTED = """
// tensor is the same value in nested lists of a shape.
func tensor(value any, shape ...int) any {
	if len(shape) == 0 {
		return value
	}
	list := make([]any, shape[0])
	for i := range list {
		list[i] = tensor(value, shape[1:]...)
	}
	return list
}
"""

_FLAT = """
// tensor is the same value, so many times.
func tensor(value any, size int) any {
	list := make([]any, size)
	for i := range list {
		list[i] = value
	}
	return list
}
"""

_MAIN = """
func main() {
	text, err := json.Marshal(map[string]any{
%(body)s	})
	check(err)
	client := http.Client{Timeout: 30 * time.Second}
	answer, err := client.Post(%(url)s, "application/json", bytes.NewReader(text))
	check(err)
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(answer.Body)
		check(fmt.Errorf("%%s: %%s", answer.Status, why))
	}
	var told struct {
		Outputs json.RawMessage `json:"outputs"`
	}
	check(json.NewDecoder(answer.Body).Decode(&told))
	fmt.Println(string(told.Outputs))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
"""


def program(plan: Plan) -> str:
    """`package main`; run it with `go run main.go`."""
    imports = ("bytes", "encoding/json", "fmt", "io", "net/http", "os", "time")
    helper = "" if plan.is_literal else _FLAT if plan.is_v2 else _NESTED
    return (
        f"// {plan.title}\n//\n//\tgo run main.go\npackage main\n\nimport (\n"
        + "".join(f'\t"{one}"\n' for one in imports)
        + ")\n"
        + _MAIN % {"body": _body(plan), "url": quoted(plan.url)}
        + helper
    )


def _body(plan: Plan) -> str:
    pairs = [f"{quoted(k)}: {_any(v)},\n" for k, v in plan.rest_of_body().items()]
    if plan.is_v2:
        inputs = "".join(
            f"\t\t\t{{ // {one_line(i.note)}\n"
            f'\t\t\t\t"name":     {quoted(i.name)},\n'
            f'\t\t\t\t"datatype": {quoted(i.datatype)},\n'
            f'\t\t\t\t"shape":    []int{_list(list(i.shape))},\n'
            f'\t\t\t\t"data":     {_data(i)},\n\t\t\t}},\n'
            for i in plan.inputs
        )
        last = f'"inputs": []map[string]any{{\n{inputs}\t\t}},\n'
    else:
        inputs = "".join(
            f"\t\t\t// {one_line(i.note)}\n\t\t\t{quoted(i.name)}: {_nested(i)},\n"
            for i in plan.inputs
        )
        last = f'"inputs": map[string]any{{\n{inputs}\t\t}},\n'
    return "".join(f"\t\t{pair}" for pair in (*pairs, last))


def _type(one: Input) -> str:
    return _ELEMENT.get(one.spec.dtype, one.spec.dtype.label)


def _data(one: Input) -> str:
    if one.is_literal:
        return f"[]{_type(one)}{_list(one.flat)}"
    return f"tensor({json.dumps(one.fill)}, {math.prod(one.shape)})"


def _nested(one: Input) -> str:
    if not one.is_literal:
        sizes = "".join(f", {size}" for size in one.shape)
        return f"tensor({json.dumps(one.fill)}{sizes})"
    if not one.shape:
        return json.dumps(one.nested, ensure_ascii=False)
    return f"{'[]' * len(one.shape)}{_type(one)}{_list(one.nested)}"


def _list(values: list[Any]) -> str:
    inner = (_list(v) if isinstance(v, list) else json.dumps(v) for v in values)
    return "{" + ", ".join(inner) + "}"


def _any(value: Any) -> str:
    if isinstance(value, dict):
        return (
            "map[string]any{" + ", ".join(f"{quoted(k)}: {_any(v)}" for k, v in value.items()) + "}"
        )
    return quoted(value)
