"""The ONNX model as a custom model of KServe's Python server."""

import argparse
import os
from typing import Any

import onnxruntime
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer, model_server


class Onnx(Model):
    """One model, V2 in and out."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.load()

    def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"]
        )
        self.ready = True
        return self.ready

    def predict(self, payload: InferRequest, *_: Any, **__: Any) -> InferResponse:
        [y] = self.session.run(["y"], {"x": payload.inputs[0].as_numpy()})
        output = InferOutput("y", list(y.shape), "FP32")
        output.set_data_from_numpy(y, binary_data=bool(payload.from_grpc))
        return InferResponse(payload.id, self.name, [output])


if __name__ == "__main__":
    args, _ = argparse.ArgumentParser(parents=[model_server.parser]).parse_known_args()
    ModelServer(enable_docs_url=False).start([Onnx("mlp")])
