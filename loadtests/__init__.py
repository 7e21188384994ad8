"""Load as code: benches and scenarios. See README.md."""

import os

# onnxruntime from 1.30 on sends telemetry and writes files unless this is set before its import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
