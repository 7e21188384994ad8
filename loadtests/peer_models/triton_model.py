"""The ONNX model in Triton's python backend. Requests that Triton joined run at once."""

import os
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Triton's name for it."""

    def initialize(self, args: Any) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"]
        )

    def execute(self, requests: Any) -> list[Any]:
        rows = [pb_utils.get_input_tensor_by_name(r, "x").as_numpy() for r in requests]
        x = rows[0] if len(rows) == 1 else np.concatenate(rows)
        [y] = self.session.run(["y"], {"x": x})
        answers, at = [], 0
        for row in rows:
            tensor = pb_utils.Tensor("y", y[at : at + len(row)])
            answers.append(pb_utils.InferenceResponse([tensor]))
            at += len(row)
        return answers
