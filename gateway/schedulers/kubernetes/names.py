"""Labels, names and ports that a model's objects carry, and what cannot be named so. Pure."""

from __future__ import annotations

import re

from gateway.domain.errors import InvalidRequest
from gateway.domain.models import Backend, ModelSpec
from gateway.schedulers.kubernetes.settings import KubernetesSettings

GATEWAY = "gateway"
"""What manages our objects."""

MANAGED_BY = "app.kubernetes.io/managed-by"
NAME = "app.kubernetes.io/name"
MODEL = "model-gateway/model"
GROUP = "model-gateway/group"
GROUP_OF = "model-gateway/group-of"
"""Labels of a group of replicas that are not the model's own, and the model's name then. They have
no label MODEL: a selector by it, which cannot be changed in a Deployment, would take them in."""
OWNER = "model-gateway/owner"
TEMPLATE = "model-gateway/template"
"""Label of pods: the digest of what a running replica cannot change (ReplicaSet.template)."""
APPLIED = "model-gateway/applied"
"""Annotation: digest of the manifest as it was applied."""
KIND = "model-gateway/kind"
"""Annotation of pods: `kit`, `agent` or `custom`: what listens where."""
DRAINING = "model-gateway/draining"
"""Annotation of pods that are too many: they finish, and go once nobody is sent to them."""
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
"""Of the pods that could go, the ReplicaSet controller takes the cheapest."""

HTTP_PORT = 8501
GRPC_PORT = 8500
AGENT_GRPC_PORT = 8502
AGENT_HTTP_PORT = 8503

SERVER = "server"
AGENT = "agent"
BEFORE = "before"
"""Names of containers."""

# A Service's name; and as a pod is called NAME-0123456789-abcde, 63 - 17 characters.
_MODEL_NAME = re.compile(r"[a-z]([-a-z0-9]{0,44}[a-z0-9])?")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
# https://github.com/distribution/reference, loosely: what no registry could mean is refused.
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-/:]*(@[a-z0-9]+:[0-9a-fA-F]{32,})?")


def selector(settings: KubernetesSettings) -> str:
    """Label selector of everything that belongs to this installation."""
    return f"{MANAGED_BY}={GATEWAY},{OWNER}={settings.owner}"


def manager(settings: KubernetesSettings) -> str:
    """Whose fields ours are, in server-side apply: another installation's object of the same name
    is a conflict, as any stranger's."""
    return f"{GATEWAY}-{settings.owner}" if settings.owner else GATEWAY


def object_name(model: str, group: str) -> str:
    """What the objects of a model's group are called: `resnet`, `resnet.canary`. No model's name
    has a dot (`check`), so no other model's objects are called so. (Pods with dots in their names
    are common: those that a node starts by itself are called after it.)"""
    return f"{model}.{group}" if group else model


def of_object(name: str) -> tuple[str, str]:
    """The model and the group whose objects are called so."""
    model, _, group = name.partition(".")
    return model, group


def labels_of(model: str, group: str) -> dict[str, str]:
    """What tells the pods of one group from all others of this installation."""
    return {GROUP_OF: model, GROUP: group} if group else {MODEL: model}


def is_mig(gpu_type: str | None) -> bool:
    """Whether a GPU type names a slice of one (`mig-1g.10gb`)."""
    return gpu_type is not None and gpu_type.startswith("mig-")


def check(spec: ModelSpec, settings: KubernetesSettings) -> None:
    """Refuse what Kubernetes would refuse later, in words that say what to change.

    Raises:
        InvalidRequest: the model's name is no DNS label (`bad_model_name`), or the GPU type
            (`bad_gpu_type`), the image (`bad_image`), the source (`bad_source`) or the command
            (`bad_command`) cannot be used in pods.
    """
    if not _MODEL_NAME.fullmatch(spec.name):
        raise InvalidRequest(
            f"{spec.name!r} cannot name a model on Kubernetes, where it names a Service: use at "
            "most 46 lower-case letters, digits and '-', beginning with a letter and not ending "
            "with '-'.",
            reason="bad_model_name",
        )
    gpu_type = spec.resources.gpu_type
    if gpu_type is not None and not _LABEL_VALUE.fullmatch(gpu_type):
        raise InvalidRequest(
            f"gpu_type (--gpu-type) must be the value of the node label "
            f"{settings.gpu_product_label}, such as NVIDIA-A100-SXM4-80GB, or a MIG slice such as "
            f"mig-1g.10gb; got {gpu_type[:80]!r}.",
            reason="bad_gpu_type",
        )
    if spec.image is not None and not _IMAGE.fullmatch(spec.image):
        raise InvalidRequest(
            f"image (--image) {spec.image[:80]!r} is no container image; write it as "
            "registry/name:tag.",
            reason="bad_image",
        )
    if spec.backend is Backend.CUSTOM and not spec.image:
        raise InvalidRequest(
            "backend (--backend) custom needs an image (--image) on Kubernetes: replicas are "
            "containers. command (--command) replaces what the image runs.",
            reason="bad_command",
        )
    _check_source(spec, settings)


def _check_source(spec: ModelSpec, settings: KubernetesSettings) -> None:
    if not spec.source.startswith("file://"):
        if any("{model_dir}" in part for part in spec.command):
            raise InvalidRequest(
                f"{{model_dir}} needs a file:// source, and {spec.source} is not; leave "
                "{model_dir} out and let the program fetch its versions.",
                reason="bad_command",
            )
        return
    if not settings.model_volume:
        raise InvalidRequest(
            f"source (--source) {spec.source} is a folder of the gateway's, which pods do not see. "
            "Use object storage (s3://…, gs://…, az://…), or set model_volume in [kubernetes] of "
            "gateway.toml to a volume that holds it.",
            reason="bad_source",
        )
    root = settings.model_path.rstrip("/")
    if not spec.source.removeprefix("file://").startswith(f"{root}/"):
        raise InvalidRequest(
            f"source (--source) {spec.source} is not below {settings.model_path}, where model pods "
            "see the volume of models.",
            reason="bad_source",
        )
