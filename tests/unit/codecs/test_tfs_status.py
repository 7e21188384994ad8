from __future__ import annotations

import json

import pytest

from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_status import (
    ConfiguredModel,
    model_configs,
    reload_request,
    status_json,
    status_proto,
    statuses_from_proto,
)
from gateway.domain.errors import InvalidRequest
from gateway.domain.models import All, Latest, Specific, VersionState, VersionStatus
from gateway.domain.replicas import Told

STATES = [
    (VersionState.NEW, "START"),
    (VersionState.FETCHING, "START"),
    (VersionState.LOADING, "LOADING"),
    (VersionState.READY, "AVAILABLE"),
    (VersionState.DRAINING, "UNLOADING"),
    (VersionState.GONE, "END"),
    (VersionState.FAILED, "END"),
]


@pytest.mark.parametrize(("state", "name"), STATES)
def test_each_state_has_its_name_on_the_wire(state, name):
    assert set(VersionState) == {state for state, _ in STATES}
    [one] = json.loads(status_json([VersionStatus(1, state)]))["model_version_status"]
    assert one["state"] == name


def test_the_json_is_the_original_one_to_the_byte():
    failed = VersionStatus(7, VersionState.FAILED, reason='no "such" file', error_code=5)
    assert status_json([VersionStatus(123, VersionState.READY), failed]).decode() == (
        '{\n "model_version_status": [\n  {\n   "version": "123",\n   "state": "AVAILABLE",\n'
        '   "status": {\n    "error_code": "OK",\n    "error_message": ""\n   }\n  },\n'
        '  {\n   "version": "7",\n   "state": "END",\n   "status": {\n'
        '    "error_code": "NOT_FOUND",\n    "error_message": "no \\"such\\" file"\n   }\n'
        "  }\n ]\n}\n"
    )


def test_a_failure_without_a_code_is_not_shown_as_success():
    failed = VersionStatus(1, VersionState.FAILED, reason="broken")
    assert status_proto([failed]).model_version_status[0].status.error_code == 2
    assert b'"UNKNOWN"' in status_json([failed])


@pytest.mark.parametrize(
    "state", [s for s, _ in STATES if s not in (VersionState.FETCHING, VersionState.FAILED)]
)
def test_a_state_survives_the_wire(state):
    [back] = statuses_from_proto(status_proto([VersionStatus(2, state)]))
    assert back == VersionStatus(2, state)


def test_a_failure_survives_the_wire_with_its_reason():
    failed = VersionStatus(2, VersionState.FAILED, reason="broken", error_code=13)
    assert statuses_from_proto(status_proto([failed])) == [failed]


def test_what_a_replica_is_told_is_what_it_reads():
    told = Told("m", "s3://models/m", (3, 4), {"stable": 3})
    request = tfs_pb2.ReloadConfigRequest.FromString(
        reload_request(told, "onnxruntime").SerializeToString()
    )
    assert model_configs(request) == [
        ConfiguredModel("m", "s3://models/m", "onnxruntime", Specific((3, 4)), {"stable": 3})
    ]


def test_told_to_hold_nothing_is_not_the_default_policy():
    request = tfs_pb2.ReloadConfigRequest.FromString(
        reload_request(Told("m", "/m"), "tensorflow").SerializeToString()
    )
    assert model_configs(request)[0].policy == Specific(())


@pytest.mark.parametrize(
    ("text", "policy"),
    [("", Latest(1)), ("latest", Latest(1)), ("latest2", Latest(2)), ("all", All())],
)
def test_each_policy_is_read(text, policy):
    request = tfs_pb2.ReloadConfigRequest()
    config = request.config.model_config_list.config.add(name="m", base_path="/m")
    if text.startswith("latest"):
        config.model_version_policy.latest.num_versions = int(text[6:] or 0)
    elif text:
        config.model_version_policy.all.SetInParent()
    assert model_configs(request)[0].policy == policy


@pytest.mark.parametrize("models", [[("", "/m")], [("m", "")], [("m", "/a"), ("m", "/b")]], ids=str)
def test_a_config_that_contradicts_itself_is_refused(models):
    request = tfs_pb2.ReloadConfigRequest()
    for name, base_path in models:
        request.config.model_config_list.config.add(name=name, base_path=base_path)
    with pytest.raises(InvalidRequest) as caught:
        model_configs(request)
    assert caught.value.reason == "bad_config"


def test_only_a_list_of_models_can_be_reloaded():
    request = tfs_pb2.ReloadConfigRequest()
    with pytest.raises(InvalidRequest, match="model_config_list"):
        model_configs(request)
    request.config.custom_model_config.SetInParent()
    with pytest.raises(InvalidRequest, match="model_config_list"):
        model_configs(request)
    request.config.model_config_list.SetInParent()
    assert model_configs(request) == []
