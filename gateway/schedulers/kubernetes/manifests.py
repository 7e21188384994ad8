"""A model's objects on Kubernetes: Deployment, headless Service, PodDisruptionBudget. Pure.

A canary's own replicas have a Deployment and a budget besides, and no Service: who goes by the
model's gets the version that is live.

Dicts as the API server takes them, holding only fields that are ours: server-side apply leaves all
others to whoever set them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from gateway.domain.replicas import ReplicaSet
from gateway.schedulers.kubernetes import containers, names
from gateway.schedulers.kubernetes.containers import Manifest
from gateway.schedulers.kubernetes.settings import KubernetesSettings


@dataclass(frozen=True, slots=True)
class Manifests:
    """The objects of one group of a model; the Deployment without its number of pods, which changes
    by itself."""

    deployment: Manifest
    service: Manifest | None
    """None but for the model's own replicas."""
    budget: Manifest

    def with_replicas(self, replicas: int) -> Manifest:
        """The Deployment for so many pods."""
        return _stamped(
            {**self.deployment, "spec": {**self.deployment["spec"], "replicas": replicas}}
        )


def manifests(desired: ReplicaSet, namespace: str, settings: KubernetesSettings) -> Manifests:
    """The objects of one group of a model."""
    service = None if desired.group else _stamped(_service(desired, namespace, settings))
    return Manifests(
        _deployment(desired, namespace, settings),
        service,
        _stamped(_budget(desired, namespace, settings)),
    )


def applied(manifest: Manifest) -> str:
    """The digest that a manifest carries of itself."""
    return str(manifest["metadata"]["annotations"][names.APPLIED])


def _stamped(manifest: Manifest) -> Manifest:
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    metadata = {**manifest["metadata"], "annotations": {names.APPLIED: digest}}
    return {**manifest, "metadata": metadata}


def _metadata(desired: ReplicaSet, namespace: str, settings: KubernetesSettings) -> Manifest:
    model, group = desired.spec.name, desired.group
    labels = {
        names.NAME: model,
        names.MANAGED_BY: names.GATEWAY,
        names.OWNER: settings.owner,
        **names.labels_of(model, group),
    }
    return {"name": names.object_name(model, group), "namespace": namespace, "labels": labels}


def _pods_of(desired: ReplicaSet, settings: KubernetesSettings) -> dict[str, str]:
    """The selector; in a Deployment it cannot be changed, so it must stay as it was ever made."""
    return {names.OWNER: settings.owner, **names.labels_of(desired.spec.name, desired.group)}


def _deployment(desired: ReplicaSet, namespace: str, settings: KubernetesSettings) -> Manifest:
    metadata = _metadata(desired, namespace, settings)
    template = {
        "metadata": {
            "labels": {**metadata["labels"], names.TEMPLATE: desired.template},
            "annotations": {names.KIND: containers.kind_of(desired.spec, settings)},
        },
        "spec": _pod(desired, settings),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "selector": {"matchLabels": _pods_of(desired, settings)},
            "revisionHistoryLimit": 2,
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": settings.surge, "maxUnavailable": 0},
            },
            "template": template,
        },
    }


def _pod(desired: ReplicaSet, settings: KubernetesSettings) -> Manifest:
    spec = desired.spec
    security: Manifest = {"seccompProfile": {"type": "RuntimeDefault"}}
    if containers.kind_of(spec, settings) != "custom":
        user = settings.run_as_user
        security |= {"runAsNonRoot": True, "runAsUser": user, "runAsGroup": user, "fsGroup": user}
    made: Manifest = {
        "containers": containers.containers(spec, settings),
        "volumes": containers.volumes(spec, settings),
        "securityContext": security,
        "terminationGracePeriodSeconds": containers.grace_s(spec, settings),
        # Models talk to nobody's API, and a namespace of 500 Services would be 3500 variables.
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": key,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": _pods_of(desired, settings)},
                "matchLabelKeys": ["pod-template-hash"],
            }
            for key in settings.spread_by
        ],
    }
    if prepared := containers.before(spec, settings):
        made["initContainers"] = prepared
    if settings.service_account:
        made["serviceAccountName"] = settings.service_account
    if settings.priority_class:
        made["priorityClassName"] = settings.priority_class
    if settings.image_pull_secrets:
        made["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    return {**made, **_placed(desired, settings)}


def _placed(desired: ReplicaSet, settings: KubernetesSettings) -> Manifest:
    """What brings pods with GPUs to nodes that have them."""
    resources = desired.spec.resources
    if not resources.gpus:
        return {}
    made: Manifest = {}
    if resources.gpu_type and not names.is_mig(resources.gpu_type):
        made["nodeSelector"] = {settings.gpu_product_label: resources.gpu_type}
    if settings.gpu_toleration:
        taint = {"key": settings.gpu_toleration, "operator": "Exists", "effect": "NoSchedule"}
        made["tolerations"] = [taint]
    if settings.runtime_class:
        made["runtimeClassName"] = settings.runtime_class
    return made


def _service(desired: ReplicaSet, namespace: str, settings: KubernetesSettings) -> Manifest:
    """Headless: names for the pods, for people and other programs. The gateway itself goes by the
    pods it watches, which is sooner than DNS and knows what each of them holds."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(desired, namespace, settings),
        "spec": {
            "clusterIP": "None",
            "selector": _pods_of(desired, settings),
            "ports": [
                {"name": "http", "port": names.HTTP_PORT, "targetPort": names.HTTP_PORT,
                 "protocol": "TCP", "appProtocol": "http"},
                {"name": "grpc", "port": names.GRPC_PORT, "targetPort": names.GRPC_PORT,
                 "protocol": "TCP", "appProtocol": "kubernetes.io/h2c"},
            ],
        },
    }  # fmt: skip


def _budget(desired: ReplicaSet, namespace: str, settings: KubernetesSettings) -> Manifest:
    """One pod at a time may be taken for maintenance; a broken one any time. Never 0: a model with
    one replica would hold up every node's maintenance for ever."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(desired, namespace, settings),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": _pods_of(desired, settings)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
