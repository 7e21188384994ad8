from __future__ import annotations

import subprocess
import sys

NUMPY_FREE = [
    "tfs_routes", "tfs_errors", "tfs_scan", "tfs_methods", "tfs_status", "tfs_metadata",
    "tfs_dtypes", "tfs_examples", "json_text", "manifest", "pb.tfs_pb2", "pb.oip_pb2",
    "oip_routes", "oip_errors", "oip_scan", "oip_methods", "oip_admin", "oip_stats", "oip_dtypes",
    "oip_headers", "oip_infer", "proto_walk", "proto_tensors",
]  # fmt: skip


def test_what_the_gateway_imports_is_free_of_numpy():
    """One process for all of them: an import of numpy by any would show."""
    code = (
        "import importlib, sys\n"
        f"for name in {NUMPY_FREE}: importlib.import_module('gateway.codecs.' + name)\n"
        "print(sorted({'numpy', 'ml_dtypes', 'tensorflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
