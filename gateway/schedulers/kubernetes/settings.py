"""The knobs of the Kubernetes scheduler: the table `[kubernetes]` of gateway.toml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway import __version__
from gateway.domain.errors import InvalidRequest

DEFAULT_IMAGES: Mapping[str, str] = {
    "onnx": f"server-onnx:{__version__}",
    "onnx-gpu": f"server-onnx:{__version__}-cuda",
    "caffe": f"server-caffe:{__version__}",
    "tensorflow": "tensorflow/serving:2.19.0",
    "tensorflow-gpu": "tensorflow/serving:2.19.0-gpu",
    "tensorflow-own": f"server-tensorflow:{__version__}",
    "tensorflow-own-gpu": f"server-tensorflow:{__version__}-cuda",
    "agent": f"agent:{__version__}",
}
"""What each kind of replica runs. `KIND-gpu`, where there is one, is for replicas with GPUs."""


_PULL_POLICIES = ("Always", "IfNotPresent", "Never")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_MUST_BE: Mapping[str, str] = {
    "images": f"a table with the keys {', '.join(DEFAULT_IMAGES)}",
    "tensorflow": "stock or own",
    "image_pull_policy": ", ".join(_PULL_POLICIES),
    "model_volume": "claim:NAME or host:/path",
    "model_path": "an absolute path",
    "owner": "a label's value: up to 63 letters, digits, '-', '_' or '.'",
    "surge": "at least 1",
    "concurrent_calls": "at least 1",
    "leave_s": "at least 0",
    "margin_s": "at least 0",
}


@dataclass(frozen=True, slots=True)
class KubernetesSettings:
    """Where replicas run as pods, and how."""

    kubeconfig: str = ""
    """Path of a kubeconfig. Empty: the pod's own service account where the gateway runs in a pod,
    else $KUBECONFIG, else ~/.kube/config."""
    namespace: str = ""
    """Where the models live. Empty: the gateway's own, or that of the kubeconfig's context."""
    owner: str = ""
    """Marks what belongs to this installation. Empty: named after the gateway's database, which has
    a number of its own. So a gateway that has lost its database, or another one that is pointed at
    the same namespace by mistake, finds nothing that it could take for garbage. Gateways of the
    same name and with different databases remove each other's models."""

    images: Mapping[str, str] = field(default_factory=dict)
    """Replaces entries of DEFAULT_IMAGES, as in `images = { onnx = "registry/server-onnx:3" }`."""
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    """Names of Secrets of the namespace."""
    tensorflow: str = "stock"
    """`stock` runs tensorflow/serving with our agent beside it, `own` our servers.tensorflow."""
    service_account: str = ""
    """For the model pods; they are never given its token. Empty: the namespace's default."""

    credentials_secret: str = ""
    """Name of a Secret whose keys (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL and so on) become the
    environment of model pods. Their values never stand in a pod's spec."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """More environment, for what is no secret."""
    model_volume: str = ""
    """Makes `file://` sources work: `claim:NAME` (a PersistentVolumeClaim) or `host:/path` is
    mounted read-only at `model_path` in every model pod, as it is in the gateway."""
    model_path: str = "/models"

    gpu_resource: str = "nvidia.com/gpu"
    mig_resource_prefix: str = "nvidia.com/"
    """`--gpu-type mig-1g.10gb` asks for `nvidia.com/mig-1g.10gb`, as NVIDIA's device plugin names
    them with its strategy `mixed`."""
    gpu_product_label: str = "nvidia.com/gpu.product"
    """Node label that `--gpu-type` selects by; NVIDIA's GPU feature discovery sets this one."""
    gpu_toleration: str = "nvidia.com/gpu"
    """Taint that GPU nodes carry to keep others away; empty tolerates none."""
    spread_by: tuple[str, ...] = ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
    """Node labels over whose values a model's pods are spread as evenly as can be had."""
    runtime_class: str = ""
    """RuntimeClass of pods with GPUs, where the cluster needs one (`nvidia`)."""
    priority_class: str = ""

    run_as_user: int = 10001
    """The user of our images. Custom images run as the user that they name."""
    cache_bytes: int = 50 * 1024**3
    """Bound of the fetched versions of one pod, in an emptyDir; the gateway's own setting."""
    max_body_bytes: int = 128 * 1024 * 1024
    """The gateway's own bound."""
    log_format: str = "json"
    v2_flavour: str = "triton"
    """The gateway's own."""

    startup_s: float = 300.0
    """From the start of a container until it must listen. Models load afterwards."""
    leave_s: float = 60.0
    """How long a pod goes on answering at most after it was deleted, by whomever. Gateways notice
    within milliseconds and send to others where there are others; the rest is for the replacement
    of an only replica to load. Our own servers end as soon as nobody asks them any more. TensorFlow
    Serving and custom images cannot know: they go on for half of this and for a deadline, and their
    GPUs are not free meanwhile."""
    margin_s: float = 10.0
    """Beyond `leave_s` and the longest deadline, before a pod is killed."""
    surge: int = 1
    """Pods beyond those wanted while a change rolls; none is ever missing."""

    concurrent_calls: int = 8
    """Writes to the API server at once; it is shared with everybody."""
    call_s: float = 15.0
    """How long one call may take."""
    watch_s: float = 300.0
    """How long one watch lasts before it is begun anew where it left off, as the API server would
    end it by itself after 5 to 10 min."""
    quiet_s: float = 150.0
    """A watch that says nothing for so long is begun anew: the server sends a bookmark a minute."""
    first_retry_s: float = 0.2
    last_retry_s: float = 20.0
    """Waits after a failure: doubling, jittered, for ever."""
    last_apply_retry_s: float = 60.0
    """The same of a model whose objects the API server refuses."""

    def check(self) -> None:
        """Raises InvalidRequest (`bad_setting`), naming the key."""
        kind, _, what = self.model_volume.partition(":")
        wrong = {
            "images": sorted(set(self.images) - set(DEFAULT_IMAGES)),
            "tensorflow": self.tensorflow not in ("stock", "own"),
            "image_pull_policy": self.image_pull_policy not in _PULL_POLICIES,
            "model_volume": bool(kind) and not (kind in ("claim", "host") and what),
            "model_path": not self.model_path.startswith("/"),
            "owner": bool(self.owner) and not _LABEL_VALUE.fullmatch(self.owner),
            "surge": self.surge < 1,
            "concurrent_calls": self.concurrent_calls < 1,
            "leave_s": self.leave_s < 0,
            "margin_s": self.margin_s < 0,
        }
        for key, is_wrong in wrong.items():
            if is_wrong:
                raise InvalidRequest(
                    f"{key} of [kubernetes] must be {_MUST_BE[key]}; got {getattr(self, key)!r}",
                    reason="bad_setting",
                )

    def image(self, kind: str, *, gpu: bool = False) -> str:
        """The image of a kind, the one for GPUs where there is one and they are used."""
        known = {**DEFAULT_IMAGES, **self.images}
        return known.get(f"{kind}-gpu", known[kind]) if gpu else known[kind]
