"""Standalone model servers on one kit. `python -m servers.onnx --help`."""
