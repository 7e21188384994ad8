"""TensorFlow Serving's gRPC methods: a serialized request in, a serialized answer out.

A PredictRequest of a form that has been seen is not parsed again (`gateway.codecs.proto_forms`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from gateway.codecs import tfs_metadata, tfs_status, tfs_tensors
from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_examples import serialized_examples
from gateway.codecs.tfs_forms import PredictAsked, PredictForms
from gateway.codecs.tfs_methods import Method
from gateway.domain.errors import DeadlineExceeded, InvalidRequest, Unimplemented
from gateway.domain.names import Version
from gateway.domain.tensors import CLASSIFY_METHOD, REGRESS_METHOD
from servers.kit import inference
from servers.kit.rpc_failed import Failed
from servers.kit.runtime import Arrays
from servers.kit.servable import Servable
from servers.kit.service import Answer, Checked, Service
from servers.kit.timing import Spent


class Call:
    """One request on its way."""

    __slots__ = ("body", "deadline_at", "model", "spent")

    def __init__(self, body: bytes, deadline_at: float) -> None:
        self.body = body
        self.deadline_at = deadline_at
        self.model = ""
        """Its model once that is known to be one of ours: the label of its metrics."""
        self.spent: Spent | None = None
        """Where its time went, once it has been answered."""


class TfsCalls:
    """All methods over one Service."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._forms = PredictForms()

    def _find(self, call: Call, spec: tfs_pb2.ModelSpec) -> Servable:
        version, label = _choice(spec)
        servable = self.service.manager.find(spec.name, version, label)
        call.model = servable.name
        return servable

    async def predict(self, call: Call) -> bytes:
        form = self._forms.find(call.body)
        if form is None:
            return await self._predict_anew(call)
        asked = form.said
        servable = self.service.manager.find(asked.model, asked.version, asked.label)
        call.model = servable.name
        if len(call.body) <= self.service.offload_bytes:
            inputs: Arrays = form.arrays(call.body)
        else:
            inputs = await self.service.off_loop(len(call.body), lambda: form.arrays(call.body))
        checked: Checked | None = servable.checked.get(form)
        if checked is None:
            names = inputs.keys()
            inputs, checked = self.service.check(
                servable, asked.signature, inputs, asked.output_filter
            )
            if names == inputs.keys():  # else defaults were filled in, as they have to be each time
                servable.remember(form, checked)
        outputs = await servable.predict(
            checked.signature, inputs, checked.outputs, checked.rows, call.deadline_at
        )
        call.spent = spent = servable.batcher.spent
        return await self._encoded(Answer(servable, checked.signature, outputs, spent))

    async def _predict_anew(self, call: Call) -> bytes:
        off_loop, size = self.service.off_loop, len(call.body)
        request = await off_loop(size, lambda: tfs_pb2.PredictRequest.FromString(call.body))
        _check_spec(request)
        spec = request.model_spec
        servable = self._find(call, spec)
        given = await off_loop(
            size, lambda: {n: tfs_tensors.to_array(t) for n, t in request.inputs.items()}
        )
        made = await self.service.predict(
            servable, spec.signature_name, given, request.output_filter, call.deadline_at
        )
        call.spent = made.spent
        if not self._forms.is_useless:
            self._forms.learn_request(
                call.body,
                request,
                PredictAsked(
                    spec.name, *_choice(spec), spec.signature_name, tuple(request.output_filter)
                ),
            )
        return await self._encoded(made)

    async def _encoded(self, made: Answer) -> bytes:
        answers = made.servable.predict_answers
        size = _size(made.outputs)
        if size <= self.service.offload_bytes:
            known = answers.encode(made.signature, made.outputs)
            if known is not None:
                return known
        message = await self.service.off_loop(size, lambda: _prediction(made))
        specs = made.servable.signatures[made.signature].outputs
        dtypes = {name: spec.dtype for name, spec in specs.items()}
        answers.learn(made.signature, made.outputs, dtypes, message)
        return message

    async def classify(self, call: Call) -> bytes:
        request = tfs_pb2.ClassificationRequest.FromString(call.body)
        _check_spec(request)
        made, examples = await self._infer(call, request.model_spec, CLASSIFY_METHOD, request.input)
        answer = tfs_pb2.ClassificationResponse(
            result=inference.classification(made.outputs, len(examples))
        )
        _fill_spec(answer.model_spec, made)
        return answer.SerializeToString()

    async def regress(self, call: Call) -> bytes:
        request = tfs_pb2.RegressionRequest.FromString(call.body)
        _check_spec(request)
        made, examples = await self._infer(call, request.model_spec, REGRESS_METHOD, request.input)
        answer = tfs_pb2.RegressionResponse(
            result=inference.regression(made.outputs, len(examples))
        )
        _fill_spec(answer.model_spec, made)
        return answer.SerializeToString()

    async def _infer(
        self, call: Call, spec: tfs_pb2.ModelSpec, method: str, source: tfs_pb2.Input
    ) -> tuple[Answer, list[bytes]]:
        servable = self._find(call, spec)
        examples = serialized_examples(source)
        made = await self.service.infer(
            servable, spec.signature_name, method, examples, call.deadline_at
        )
        call.spent = made.spent
        return made, examples

    async def multi_inference(self, call: Call) -> bytes:
        """Several signatures of one model over the same examples (multi_inference.cc)."""
        request = tfs_pb2.MultiInferenceRequest.FromString(call.body)
        names = {task.model_spec.name for task in request.tasks}
        if not request.tasks:
            raise InvalidRequest("Inference request must have at least one task", reason="no_task")
        if len(names) > 1 or "" in names:
            raise InvalidRequest(
                "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
                reason="bad_tasks",
            )
        signatures = [task.model_spec.signature_name for task in request.tasks]
        if len(set(signatures)) < len(signatures):
            raise InvalidRequest(
                f"Duplicate evaluation of signature: {_repeated(signatures)}", reason="bad_tasks"
            )
        answer = tfs_pb2.MultiInferenceResponse()
        for task in request.tasks:
            method = task.method_name
            if method not in (CLASSIFY_METHOD, REGRESS_METHOD):
                raise Unimplemented(
                    f"Unsupported signature method_name: {method}", reason="bad_task"
                )
            made, examples = await self._infer(call, task.model_spec, method, request.input)
            result = answer.results.add()
            _fill_spec(result.model_spec, made)
            if method == CLASSIFY_METHOD:
                made_classes = inference.classification(made.outputs, len(examples))
                result.classification_result.CopyFrom(made_classes)
            else:
                result.regression_result.CopyFrom(inference.regression(made.outputs, len(examples)))
        return answer.SerializeToString()

    async def metadata(self, call: Call) -> bytes:
        request = tfs_pb2.GetModelMetadataRequest.FromString(call.body)
        tfs_metadata.check_metadata_request(request)
        servable = self._find(call, request.model_spec)
        answer = tfs_metadata.metadata_proto(servable.name, servable.version, servable.signatures)
        return answer.SerializeToString()

    async def status(self, call: Call) -> bytes:
        request = tfs_pb2.GetModelStatusRequest.FromString(call.body)
        _check_spec(request)
        spec = request.model_spec
        # As the original, only has_version() counts here; a label is ignored.
        has_version = spec.WhichOneof("version_choice") == "version"
        version = spec.version.value if has_version else None
        statuses = self.service.manager.statuses(spec.name, version)
        return tfs_status.status_proto(statuses).SerializeToString()

    async def reload(self, call: Call) -> bytes:
        request = tfs_pb2.ReloadConfigRequest.FromString(call.body)
        try:
            async with asyncio.timeout_at(call.deadline_at):
                code, message = await self.service.reload(request)
        except TimeoutError:
            raise DeadlineExceeded(
                "The configuration was taken; its models are still loading", reason="call"
            ) from None
        if code:
            raise Failed(code, message)
        answer = tfs_pb2.ReloadConfigResponse()
        answer.status.error_code = 0
        return answer.SerializeToString()


def _choice(spec: tfs_pb2.ModelSpec) -> tuple[Version | None, str | None]:
    """Version or label."""
    choice = spec.WhichOneof("version_choice")
    version = spec.version.value if choice == "version" else None
    return version, spec.version_label if choice == "version_label" else None


def _check_spec(
    request: tfs_pb2.PredictRequest
    | tfs_pb2.ClassificationRequest
    | tfs_pb2.RegressionRequest
    | tfs_pb2.GetModelStatusRequest,
) -> None:
    if not request.HasField("model_spec"):
        raise InvalidRequest("Missing ModelSpec", reason="model_missing")


def _repeated(names: list[str]) -> str:
    return next(name for name in names if names.count(name) > 1)


def _size(outputs: Arrays) -> int:
    # An object array's nbytes are pointers; strings are rarely short, so each counts for more.
    return sum(a.nbytes * (8 if a.dtype == object else 1) for a in outputs.values())


def _fill_spec(spec: tfs_pb2.ModelSpec, made: Answer) -> None:
    spec.name = made.servable.name
    spec.version.value = made.servable.version
    spec.signature_name = made.signature


def _prediction(made: Answer) -> bytes:
    answer = tfs_pb2.PredictResponse()
    _fill_spec(answer.model_spec, made)
    specs = made.servable.signatures[made.signature].outputs
    for name, array in made.outputs.items():
        answer.outputs[name].CopyFrom(tfs_tensors.to_proto(array, specs[name].dtype))
    return answer.SerializeToString()


SERVE: Mapping[Method, Callable[[TfsCalls, Call], Awaitable[bytes]]] = {
    Method.PREDICT: TfsCalls.predict,
    Method.CLASSIFY: TfsCalls.classify,
    Method.REGRESS: TfsCalls.regress,
    Method.MULTI_INFERENCE: TfsCalls.multi_inference,
    Method.GET_MODEL_METADATA: TfsCalls.metadata,
    Method.GET_MODEL_STATUS: TfsCalls.status,
    Method.HANDLE_RELOAD_CONFIG: TfsCalls.reload,
}
