"""Stands where the stock `tensorflow_model_server` binary would: takes its flags, speaks its wire.

The binary is in no package index, so the agent is tried against this project's own servers, which
speak the same ModelService. `TFS_STANDIN` names the server (`tensorflow` or `onnx`). Like the
binary it exits at once on a flag that it does not know, and on a missing configuration file.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def main() -> None:
    """Translate the flags and become the server."""
    parser = argparse.ArgumentParser(prog="tensorflow_model_server", allow_abbrev=False)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rest_api_port", type=int, required=True)
    parser.add_argument("--model_config_file", type=Path, required=True)
    parser.add_argument("--max_num_load_retries", type=int, default=5)
    parser.add_argument("--file_system_poll_wait_seconds", type=int, default=1)
    args = parser.parse_args()
    text = args.model_config_file.read_text()
    if "".join(text.split()) != "model_config_list{}":
        sys.exit(f"only an empty configuration is understood here, not {text!r}")
    command = [sys.executable, "-m", f"servers.{os.environ.get('TFS_STANDIN', 'tensorflow')}"]
    command += ["--http", f"127.0.0.1:{args.rest_api_port}", "--grpc", f"127.0.0.1:{args.port}"]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
