"""What a model becomes on Kubernetes: golden files, and what each option of a deploy changes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from gateway.core.placement import template_of
from gateway.domain.models import Backend, Batching, ModelSpec, Resources
from gateway.domain.replicas import ReplicaSet
from gateway.schedulers.kubernetes import containers, names
from gateway.schedulers.kubernetes.manifests import applied, manifests
from gateway.schedulers.kubernetes.settings import KubernetesSettings

GOLDEN = Path(__file__).parents[3] / "golden" / "kubernetes"
IMAGES = {kind: f"{kind}:1" for kind in ("onnx", "onnx-gpu", "caffe", "tensorflow", "agent")}
SETTINGS = KubernetesSettings(owner="gateway", images=IMAGES)


def spec(backend=Backend.ONNX, **changes) -> ModelSpec:
    return replace(ModelSpec("resnet", "s3://models/resnet", backend), **changes)


def made(of: ModelSpec, settings=SETTINGS, replicas=2, group="") -> dict:
    desired = ReplicaSet(of, template_of(of), replicas, group)
    objects = manifests(desired, "models", settings)
    return {
        "Deployment": objects.with_replicas(replicas),
        **({"Service": objects.service} if objects.service else {}),
        "PodDisruptionBudget": objects.budget,
    }


def pod(of: ModelSpec, settings=SETTINGS) -> dict:
    return made(of, settings)["Deployment"]["spec"]["template"]["spec"]


def server(of: ModelSpec, settings=SETTINGS) -> dict:
    return pod(of, settings)["containers"][0]


CASES = {
    "onnx": (spec(), SETTINGS),
    "onnx-gpu": (
        spec(
            resources=Resources(2, "NVIDIA-A100-SXM4-80GB", 3.5, 16 * 1024**3),
            batching=Batching(64, 0.002),
            before="test -e /dev/nvidia0",
            after="echo gone",
            timeout_s=45.0,
        ),
        replace(
            SETTINGS,
            credentials_secret="storage",
            environment={"AWS_REGION": "here"},
            service_account="models",
            runtime_class="nvidia",
            priority_class="serving",
            image_pull_secrets=("registry",),
            image_pull_policy="Always",
        ),
    ),
    "tensorflow": (spec(Backend.TENSORFLOW), SETTINGS),
    "custom": (
        spec(
            Backend.CUSTOM,
            source="file:///models/resnet",
            image="registry/mine:3",
            command=("serve", "--port={http_port}", "--dir={model_dir}"),
        ),
        replace(SETTINGS, model_volume="claim:models"),
    ),
}


class _Plain(yaml.SafeDumper):
    """Without anchors: people are to read it."""

    def ignore_aliases(self, data):
        return True


@pytest.mark.parametrize("case", CASES)
def test_manifests_are_as_the_golden_files_say(case):
    as_golden(case, made(*CASES[case]))


def as_golden(case: str, objects: dict) -> None:
    text = yaml.dump_all(objects.values(), Dumper=_Plain, sort_keys=False, width=100)
    path = GOLDEN / f"{case}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text(), "run again with UPDATE_GOLDEN=1 if the change is meant"


def test_a_canary_of_its_own_is_a_deployment_and_a_budget_and_no_service():
    as_golden("onnx-canary", made(spec(), replicas=1, group="canary"))


def selectors(of: dict) -> list[dict]:
    """Of each object, by which it finds its pods."""
    spread = of["Deployment"]["spec"]["template"]["spec"]["topologySpreadConstraints"]
    budget = of["PodDisruptionBudget"]["spec"]["selector"]
    services = [of["Service"]["spec"]["selector"]] if "Service" in of else []
    found = (of["Deployment"]["spec"]["selector"], budget, *(s["labelSelector"] for s in spread))
    return [*(s["matchLabels"] for s in found), *services]


def test_no_group_finds_the_pods_of_another():
    groups = {group: made(spec(), group=group) for group in ("", "canary")}
    for one, objects in groups.items():
        labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
        for other, its in groups.items():
            found = [selector.items() <= labels.items() for selector in selectors(its)]
            assert set(found) == {one == other}
    names_of = [{o["metadata"]["name"] for o in objects.values()} for objects in groups.values()]
    assert names_of == [{"resnet"}, {"resnet.canary"}]


def test_the_selector_of_a_models_own_pods_is_as_it_ever_was():
    # It cannot be changed in a Deployment that is there: a changed one would be refused for ever.
    assert selectors(made(spec()))[0] == {
        "model-gateway/owner": "gateway",
        "model-gateway/model": "resnet",
    }


def test_the_digest_is_of_all_there_is_and_of_nothing_else():
    one, same = made(spec())["Deployment"], made(spec())["Deployment"]
    assert applied(one) == applied(same)
    assert applied(one) != applied(made(spec(), replicas=3)["Deployment"])
    assert applied(made(spec())["Service"]) == applied(made(spec(timeout_s=99.0))["Service"])


def test_a_changed_deadline_within_its_step_changes_no_pod():
    assert pod(spec(timeout_s=16.0)) == pod(spec(timeout_s=30.0))
    assert pod(spec(timeout_s=31.0)) != pod(spec(timeout_s=30.0))


@pytest.mark.parametrize(
    ("backend", "settings", "timeout_s", "held_s"),
    [
        (Backend.ONNX, SETTINGS, 30.0, 0),
        (Backend.TENSORFLOW, SETTINGS, 30.0, 30 + 30),
        (Backend.TENSORFLOW, SETTINGS, 100.0, 30 + 120),
        (Backend.CUSTOM, SETTINGS, 1.0, 30 + 5),
        (Backend.TENSORFLOW, replace(SETTINGS, tensorflow="own"), 30.0, 0),
    ],
)
def test_servers_that_do_not_drain_by_themselves_are_given_the_time_before(
    backend, settings, timeout_s, held_s
):
    of = spec(backend, image="x:1", timeout_s=timeout_s)
    stop = server(of, settings).get("lifecycle", {})
    assert stop == ({"preStop": {"sleep": {"seconds": held_s}}} if held_s else {})
    grace_s = pod(of, settings)["terminationGracePeriodSeconds"]
    assert grace_s == 60 + containers.deadline_s(of) + 10
    flags = server(of, settings).get("args", [])
    assert ("--leave-s=60" in flags) == (held_s == 0)


def test_a_mig_slice_is_a_resource_of_its_own_and_no_product():
    of = spec(resources=Resources(gpus=1, gpu_type="mig-1g.10gb"))
    limits = server(of)["resources"]["limits"]
    assert limits == {"nvidia.com/mig-1g.10gb": "1"}
    assert "nodeSelector" not in pod(of)
    assert pod(of)["tolerations"][0]["key"] == "nvidia.com/gpu"


def test_labels_and_resources_of_gpus_can_be_those_of_another_vendor():
    settings = replace(
        SETTINGS, gpu_resource="amd.com/gpu", gpu_product_label="amd/product", gpu_toleration=""
    )
    of = spec(resources=Resources(gpus=1, gpu_type="MI300X"))
    assert server(of, settings)["resources"]["limits"] == {"amd.com/gpu": "1"}
    assert pod(of, settings)["nodeSelector"] == {"amd/product": "MI300X"}
    assert "tolerations" not in pod(of, settings)


def test_without_gpus_none_is_asked_for_and_none_is_seen():
    env = {e["name"]: e["value"] for e in server(spec())["env"]}
    assert env["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert "nvidia.com/gpu" not in str(pod(spec()))


@pytest.mark.parametrize("case", CASES)
def test_no_pod_holds_a_credential_or_telemetry_or_privilege(case):
    made_pod = pod(*CASES[case])
    assert made_pod["automountServiceAccountToken"] is False
    for one in (*made_pod["containers"], *made_pod.get("initContainers", ())):
        env = {e["name"]: e for e in one["env"]}
        assert env["ORT_DISABLE_TELEMETRY"]["value"] == "1"
        assert not any("KEY" in name or "SECRET" in name for name in env)
        assert one["securityContext"]["allowPrivilegeEscalation"] is False
        assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    if case != "custom":
        assert made_pod["securityContext"]["runAsNonRoot"] is True
        assert all(c["securityContext"]["readOnlyRootFilesystem"] for c in made_pod["containers"])


def test_credentials_come_from_a_secret_by_name():
    settings = replace(SETTINGS, credentials_secret="storage")
    assert server(spec(), settings)["envFrom"] == [{"secretRef": {"name": "storage"}}]


def test_a_custom_image_without_ports_in_its_command_is_not_probed():
    of = spec(Backend.CUSTOM, image="x:1")
    assert "readinessProbe" not in server(of)
    assert "command" not in server(of)


@pytest.mark.parametrize("case", CASES)
def test_everything_carries_the_labels_that_find_it(case):
    objects = made(*CASES[case])
    wanted = dict(part.split("=") for part in names.selector(SETTINGS).split(","))
    for shown in (*objects.values(), objects["Deployment"]["spec"]["template"]):
        labels = shown["metadata"]["labels"]
        assert wanted.items() <= labels.items()
        assert labels[names.MODEL] == "resnet"
