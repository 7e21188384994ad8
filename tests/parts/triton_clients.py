"""The four clients of `tritonclient`, unmodified, behind one synchronous way to call them.

Nothing of theirs is replaced: a client is made as its documentation says and every call goes to its
own method. The asynchronous ones live on a loop of their own, in this thread.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from tests.parts.need import need

try:
    import tritonclient.grpc
    import tritonclient.grpc.aio
    import tritonclient.http
    import tritonclient.http.aio
    from tritonclient.utils import InferenceServerException, np_to_triton_dtype
except ImportError:
    need(False, "pip install -e '.[dev]'")

KINDS = ("http", "grpc", "http.aio", "grpc.aio")


class TritonClient:
    """One client and its module; `call` runs any of its methods to the end."""

    def __init__(self, kind: str, client: Any, runner: asyncio.Runner) -> None:
        self.kind = kind
        self.client = client
        self._runner = runner

    @property
    def is_http(self) -> bool:
        return self.kind.startswith("http")

    @property
    def is_aio(self) -> bool:
        return self.kind.endswith("aio")

    @property
    def module(self) -> ModuleType:
        return tritonclient.http if self.is_http else tritonclient.grpc

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """`client.method(…)`, awaited where it is asynchronous."""
        made = getattr(self.client, method)(*args, **kwargs)
        return self._runner.run(_awaited(made)) if inspect.isawaitable(made) else made

    def told(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """As `call`, with the answer as JSON-able values whichever transport it came over."""
        if not self.is_http:
            kwargs["as_json"] = True
        return self.call(method, *args, **kwargs)

    def tensor(self, name: str, array: np.ndarray, *, binary: bool = True) -> Any:
        """An InferInput that holds `array`; `binary` counts over HTTP only."""
        made = self.module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        made.set_data_from_numpy(array, **({"binary_data": binary} if self.is_http else {}))
        return made

    def wanted(self, name: str, *, binary: bool = True, class_count: int = 0) -> Any:
        """An InferRequestedOutput."""
        more = {"binary_data": binary} if self.is_http else {}
        return self.module.InferRequestedOutput(name, class_count=class_count, **more)

    def infer(
        self,
        model: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str] = (),
        *,
        binary_in: bool = True,
        binary_out: bool = True,
        **kwargs: Any,
    ) -> Any:
        """`client.infer`; outputs that are not named are asked for by their absence."""
        tensors = [self.tensor(n, a, binary=binary_in) for n, a in inputs.items()]
        asked = [self.wanted(n, binary=binary_out) for n in outputs] or None
        return self.call("infer", model, tensors, outputs=asked, **kwargs)


async def _awaited(made: Any) -> Any:
    return await made


def inference_error() -> type[Exception]:
    """What every client raises for an error of the server."""
    return InferenceServerException


@contextmanager
def triton_client(kind: str, http: str, grpc: str, **settings: Any) -> Iterator[TritonClient]:
    """A client of `kind` on the gateway's or a server's addresses."""
    modules = {
        "http": tritonclient.http,
        "grpc": tritonclient.grpc,
        "http.aio": tritonclient.http.aio,
        "grpc.aio": tritonclient.grpc.aio,
    }
    address = http if kind.startswith("http") else grpc

    async def opened() -> Any:
        return modules[kind].InferenceServerClient(address, **settings)

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        client = TritonClient(kind, runner.run(opened()), runner)
        try:
            yield client
        finally:
            client.call("close")
