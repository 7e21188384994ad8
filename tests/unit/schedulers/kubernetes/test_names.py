"""What cannot be run in pods is refused when it is asked for, in words that say what to change."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.domain.errors import InvalidRequest
from gateway.domain.models import Backend, ModelSpec, Resources
from gateway.schedulers.kubernetes.names import check, object_name, of_object
from gateway.schedulers.kubernetes.settings import KubernetesSettings

SPEC = ModelSpec("resnet", "s3://models/resnet", Backend.ONNX)
MOUNTED = KubernetesSettings(model_volume="claim:models", model_path="/models")

REFUSED = [
    ({"name": "ResNet"}, "bad_model_name", "lower-case"),
    ({"name": "res_net"}, "bad_model_name", "names a Service"),
    ({"name": "9lives"}, "bad_model_name", "beginning with a letter"),
    ({"name": "a-"}, "bad_model_name", "not ending"),
    ({"name": "a.b"}, "bad_model_name", "cannot name a model on Kubernetes"),
    ({"name": "a" * 47}, "bad_model_name", "at most 46"),
    ({"resources": Resources(1, "NVIDIA A100")}, "bad_gpu_type", "--gpu-type"),
    ({"resources": Resources(1, "x" * 64)}, "bad_gpu_type", "nvidia.com/gpu.product"),
    ({"image": "-rm"}, "bad_image", "--image"),
    ({"image": "a b"}, "bad_image", "registry/name:tag"),
    ({"backend": Backend.CUSTOM, "command": ("x",)}, "bad_command", "needs an image"),
    ({"backend": Backend.CUSTOM, "image": "x:1", "command": ("{model_dir}",)}, "bad_command", "s3"),
    ({"source": "file:///elsewhere/m"}, "bad_source", "model_volume"),
]


@pytest.mark.parametrize(("changes", "reason", "words"), REFUSED)
def test_what_pods_cannot_be_is_refused(changes, reason, words):
    with pytest.raises(InvalidRequest) as refused:
        check(replace(SPEC, **changes), KubernetesSettings())
    assert refused.value.reason == reason
    assert words in refused.value.message


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"name": "a"},
        {"name": "a" * 46},
        {"resources": Resources(1, "NVIDIA-A100-SXM4-80GB")},
        {"resources": Resources(1, "mig-1g.10gb")},
        {"image": "registry.example:5000/team/onnx@sha256:" + "0" * 64},
        {"backend": Backend.CUSTOM, "image": "x"},
        {"source": "file:///models/resnet"},
    ],
)
def test_what_pods_can_be_is_not(changes):
    check(replace(SPEC, **changes), MOUNTED)


@pytest.mark.parametrize("model", ["a", "resnet", "resnet-canary", "a" * 46])
@pytest.mark.parametrize("group", ["", "canary"])
def test_objects_of_a_group_are_called_as_no_other_model_and_no_other_group(model, group):
    name = object_name(model, group)
    assert of_object(name) == (model, group)
    assert len(name) <= 63
    if group:
        with pytest.raises(InvalidRequest):
            check(replace(SPEC, name=name), KubernetesSettings())
    else:
        assert name == model


def test_a_folder_outside_the_volume_is_refused():
    with pytest.raises(InvalidRequest, match="not below /models"):
        check(replace(SPEC, source="file:///modelsandmore/x"), MOUNTED)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"images": {"onyx": "x"}}, "images"),
        ({"tensorflow": "none"}, "tensorflow"),
        ({"model_volume": "nfs:x"}, "model_volume"),
        ({"model_volume": "claim:"}, "model_volume"),
        ({"owner": "a b"}, "owner"),
        ({"surge": 0}, "surge"),
        ({"image_pull_policy": "Sometimes"}, "image_pull_policy"),
    ],
)
def test_a_wrong_setting_is_named(changes, key):
    with pytest.raises(InvalidRequest, match=rf"{key} of \[kubernetes\] must be"):
        KubernetesSettings(**changes).check()
