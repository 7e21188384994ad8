"""Stands where the stock `tensorflow_model_server` would: its flags, its files, its wire.

The stock binary is in no package index, so the agent is tried against this project's own servers,
which speak the same ModelService. What of the binary's own manners others rely on is kept: it exits
at once on a flag that it does not know, and on a configuration that is missing or cannot be read;
what the configuration names, it loads; and it handles no signal (its `main.cc`), so SIGTERM ends it
in the middle of whatever it does, and does nothing where it is a container's first process.

Not kept: what it logs, how long it takes, its own words for what goes wrong, labels, batching.

`TFS_STANDIN` names the server (`tensorflow` or `onnx`), `TFS_STANDIN_LISTEN` where it listens. The
binary listens on all interfaces; pods on made nodes are told apart by their addresses.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from google.protobuf import text_format

from gateway.codecs.pb import tfs_pb2
from servers.kit import logs
from servers.kit.runtime import Runtime
from servers.kit.server import serving
from servers.kit.settings import ServerSettings


def main() -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser(prog="tensorflow_model_server", allow_abbrev=False)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rest_api_port", type=int, required=True)
    parser.add_argument("--model_config_file", type=Path, required=True)
    parser.add_argument("--max_num_load_retries", type=int, default=5)
    parser.add_argument("--file_system_poll_wait_seconds", type=int, default=1)
    args = parser.parse_args()
    logs.set_up("text")
    listen = os.environ.get("TFS_STANDIN_LISTEN", "127.0.0.1")
    settings = ServerSettings(f"{listen}:{args.rest_api_port}", f"{listen}:{args.port}")
    asyncio.run(_serve(_runtime(), settings, _configuration(args.model_config_file)))


def _configuration(file: Path) -> tfs_pb2.ReloadConfigRequest:
    request = tfs_pb2.ReloadConfigRequest()
    try:
        text_format.Parse(file.read_text(), request.config)
    except (OSError, text_format.ParseError) as error:
        sys.exit(f"Invalid protobuf file: {file}: {error}")
    return request


def _runtime() -> Runtime:
    if os.environ.get("TFS_STANDIN", "tensorflow") == "onnx":
        from servers.onnx.runtime import OnnxRuntime

        return OnnxRuntime(intra_op_threads=1, device="cpu")
    from servers.tensorflow.runtime import TensorFlowRuntime

    return TensorFlowRuntime()


async def _serve(
    runtime: Runtime, settings: ServerSettings, configuration: tfs_pb2.ReloadConfigRequest
) -> None:
    async with serving(runtime, settings) as running:
        code, objection = await running.service.reload(configuration)
        if code:
            sys.exit(objection)
        logs.event("standin.started", http=running.http, grpc=running.grpc)
        await asyncio.Event().wait()


if __name__ == "__main__":
    main()
