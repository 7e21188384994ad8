"""The text of ready-made code: names of any kind, shapes of any kind, and what is refused."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess

import pytest

from gateway.cli import snippets
from gateway.cli.snippet import reachable
from gateway.client.calls import Target
from gateway.domain.errors import Unimplemented
from gateway.domain.tensors import DType, Signature, TensorSpec
from tests.parts.need import need

ODD = "a\"b\\c\n\x7f$`{x}%s\u2028\U0001f600'--"


def plan(*specs: TensorSpec, protocol: str = "tfs-rest", signature: str = "serving_default"):
    spec = Signature({s.name: s for s in specs}, {"y": TensorSpec("y", DType.FLOAT, None)})
    target = Target("a model", 3)
    return snippets.plan(target, signature, spec, protocol, "h:1", in_json=True)


ODD_PLANS = [
    plan(
        TensorSpec(ODD, DType.STRING, (-1, 2)),
        TensorSpec("__proto__", DType.INT32, ()),
        TensorSpec("big", DType.UINT8, (-1, 20, 20)),
        TensorSpec("none", DType.DOUBLE, (0, 3)),
        protocol=protocol,
        signature=signature,
    )
    for protocol in ("tfs-rest", "v2-rest")
    for signature in ("serving_default", ODD)
]


@pytest.mark.parametrize("what", ODD_PLANS)
@pytest.mark.parametrize("language", ["python", "stdlib"])
def test_python_parses(what: snippets.Plan, language: str) -> None:
    tree = ast.parse(snippets.code(what, language))
    assert any(isinstance(n, ast.Constant) and n.value == ODD for n in ast.walk(tree))


def checked(command: list[str], text: str) -> str:
    need(shutil.which(command[0]) is not None, f"install {command[0]}")
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), text
    return done.stdout


@pytest.mark.parametrize("what", ODD_PLANS)
def test_shell_sends_what_is_meant(what: snippets.Plan) -> None:
    checked(["bash", "-n"], snippets.code(what, "curl"))
    # `curl` replaced by cat: what would be sent.
    text = snippets.code(what, "curl")
    body = checked(["bash"], "curl() { cat; }\n" + text)
    value = json.loads(body)
    if what.is_v2:
        sent = {t["name"]: t for t in value["inputs"]}
        assert sent[ODD]["data"] == ["text", "text"]
        assert (sent["big"]["shape"], sent["big"]["data"]) == ([1, 20, 20], [1] * 400)
    else:
        assert value["inputs"][ODD] == [["text", "text"]]
        assert value["inputs"]["__proto__"] == 1
        assert value["inputs"]["big"] == [[[1] * 20] * 20]


@pytest.mark.parametrize("what", ODD_PLANS)
def test_javascript_sends_what_is_meant(what: snippets.Plan) -> None:
    code = snippets.code(what, "javascript")
    head, _, _ = code.partition("const answer")
    body = checked(["node", "--input-type=module"], head + "console.log(JSON.stringify(body));")
    value = json.loads(body)
    names = [t["name"] for t in value["inputs"]] if what.is_v2 else list(value["inputs"])
    assert names == [ODD, "__proto__", "big", "none"]


@pytest.mark.parametrize("what", ODD_PLANS)
def test_go_is_as_gofmt_would_have_it(what: snippets.Plan) -> None:
    assert checked(["gofmt", "-d"], snippets.code(what, "go")) == ""


def test_a_name_cannot_break_out_of_a_comment() -> None:
    odd = plan(TensorSpec("x\nimport os; os.system('true')", DType.FLOAT, (1,)))
    for language in ("python", "stdlib", "curl", "go", "javascript"):
        assert "\nimport os;" not in snippets.code(odd, language)


@pytest.mark.parametrize("dtype", [DType.HALF, DType.BFLOAT16, DType.COMPLEX64])
def test_what_cannot_be_said_is_refused(dtype: DType) -> None:
    for protocol in ("tfs-rest", "v2-rest"):
        with pytest.raises(Unimplemented, match="--language python"):
            plan(TensorSpec("x", dtype, (1,)), protocol=protocol)


@pytest.mark.parametrize(
    ("address", "url", "meant"),
    [
        ("127.0.0.1:8501", "http://h:8080", "127.0.0.1:8501"),
        ("http://there:8501/", "http://h:8080", "there:8501"),
        ("0.0.0.0:8501", "http://h:8080", "h:8501"),
        ("[::]:8501", "http://[::1]:8080", "[::1]:8501"),
    ],
)
def test_addresses_can_be_reached(address: str, url: str, meant: str) -> None:
    assert reachable(address, url) == meant
