"""What scenarios conclude from what they measured, and what they send."""

from __future__ import annotations

from argparse import Namespace
from random import Random

import pytest

from gateway.codecs.pb import tfs_pb2
from gateway.domain.replicas import Endpoint
from loadtests import bench, latency, peers, proxies, workers
from loadtests.echoes import grpc_answer, grpc_request, http_request, json_answer
from loadtests.h2load import Run
from loadtests.machine import RESULTS, need
from loadtests.many_models import lookups_s, routing_table
from loadtests.scenario import Settings, disturbed, measured
from loadtests.summary import Outcome
from tests.parts.gateway_process import Failed


def run(per_s: float) -> Run:
    return Run(100, 100 / per_s, 0.001, 0.002, 10)


def test_bodies_have_the_sizes_that_the_goals_name(tmp_path):
    sizes = {
        "30 B": (http_request("small", 3, tmp_path), 30, 30),
        "784": (http_request("small", 784, tmp_path), 4000, 6500),
        "90 B": (grpc_request("small", 9, tmp_path), 80, 100),
        "3 KB": (grpc_request("small", 784, tmp_path), 3000, 3300),
        "150 KB": (grpc_request("small", proxies.PICTURE, tmp_path), 150_000, 151_000),
        "4 MB": (grpc_request("small", proxies.MATRIX, tmp_path), 4 << 20, (4 << 20) + 100),
    }
    for request, least, most in sizes.values():
        assert least <= request.body.stat().st_size <= most


def test_grpc_bodies_are_whole_messages(tmp_path):
    body = grpc_request("small", 784, tmp_path).body.read_bytes()
    assert body[0] == 0
    assert int.from_bytes(body[1:5], "big") == len(body) - 5
    request = tfs_pb2.PredictRequest.FromString(body[5:])
    assert request.model_spec.name == "small"
    assert len(request.inputs["x"].tensor_content) == 4 * 784


def test_answers_say_version_and_row():
    answer = tfs_pb2.PredictResponse.FromString(grpc_answer("small", 10))
    assert answer.model_spec.version.value == 1
    assert json_answer(2) == '{\n    "predictions": [[0.0000, 0.5000]\n    ]\n}'


def test_proxies_compare_cpu_round_by_round(tmp_path):
    request = grpc_request("small", proxies.PICTURE, tmp_path)
    payload = proxies.Payload("gRPC 150 KB", request, 100, 1.0, 4, 4, is_tensor=True)
    by_way = {
        "gateway": proxies.Measured([run(10)] * 2, [1e-4, 3e-4], [100, 101], 90),
        "envoy": proxies.Measured([run(10)] * 2, [2e-4, 3e-4], [50, 50], 50),
    }
    cpu, memory = proxies._lines(payload, by_way)
    assert cpu.figure.median == pytest.approx(0.75)
    assert cpu.is_met
    assert memory.figure.most == pytest.approx(1.01)
    rows = proxies._rows(payload, by_way)
    assert [row["way"] for row in rows] == ["gateway", "envoy"]
    assert rows[0]["cpu_ns_per_byte"] == pytest.approx(2e5 / payload.wire_bytes)


def test_peers_are_judged_by_cpu_or_by_rate():
    found = {
        (title, "REST", 4): peers.Measured([run(rate)], [cpu])
        for title, rate, cpu in (
            (peers.OURS, 3000.0, 1e-4),
            ("Triton 2.51", 3000.0, 3e-4),
            ("MLServer 1.7.1", 1000.0, 6e-4),
        )
    }
    triton, mlserver = peers._lines(found)
    assert triton.figure.median == pytest.approx(1 / 3)
    assert triton.is_met
    assert mlserver.figure.median == pytest.approx(3)
    assert mlserver.is_met
    assert mlserver.note == "CPU per request 0.17 (0.17–0.17) × its"


def test_latency_is_what_is_added_to_the_direct_way():
    name = "HTTP 30 B"
    found = {
        (name, "gateway"): latency.Measured([0.0005, 0.0007], [0.002, 0.003], cpu_s=[1e-4, 2e-4]),
        (name, "direct"): latency.Measured([0.0003, 0.0004], [0.001, 0.001], cpu_s=[0.0, 0.0]),
        (name, "envoy"): latency.Measured([0.0004, 0.0005], [0.001, 0.001], cpu_s=[2e-4, 5e-4]),
    }
    p50, p99, cpu = latency._lines(found, {name: 1000.0})
    assert p50.figure.median == pytest.approx(0.25)
    assert p50.is_met
    assert not p99.is_met
    assert (cpu.figure.median, cpu.goal) == (pytest.approx(0.45), 0.5)


def test_two_workers_are_worth_two_when_a_request_costs_the_same():
    found = {
        ("HTTP 30 B", 1): workers.Measured([1e-4], [run(10)], [100.0], [0.98]),
        ("HTTP 30 B", 2): workers.Measured([1.1e-4], [run(10)], [190.0], [0.7]),
    }
    by_cpu, held = workers._lines(found)
    assert by_cpu.figure.median == pytest.approx(2 / 1.1)
    assert held.figure.median == pytest.approx(1.9)
    assert held.note == "used 98% and 70% of their shares"
    del found["HTTP 30 B", 2].held[:], found["HTTP 30 B", 1].held[:]
    assert len(workers._lines(found)) == 1


def test_every_model_of_a_large_table_is_found():
    table = routing_table(300, [Endpoint("h:1", "h:2", "h:2")])
    assert len(table.models) == 300
    took = lookups_s(table, 50, Random(1))
    assert len(took) == 50
    assert min(took) > 0


def test_a_quick_look_still_sends_some(tmp_path):
    assert Settings(tmp_path, scale=0.1).scaled(8000) == 800
    assert Settings(tmp_path, scale=0.0001).scaled(8000) == 16


def test_rounds_are_interleaved_and_go_to_and_fro(tmp_path, capsys):
    order = list(Settings(tmp_path, rounds=2).interleaved("t", "ab", str, warm_up=True))
    assert order == [(0, "b"), (0, "a"), (1, "a"), (1, "b"), (2, "b"), (2, "a")]
    said = capsys.readouterr().err.splitlines()
    assert said == ["   t: warming up", "   t: round 1 of 2", "   t: round 2 of 2"]


def test_rounds_begin_at_once_where_nothing_is_to_warm_up(tmp_path):
    order = Settings(tmp_path, rounds=1).interleaved("t", "ab", str, warm_up=False)
    assert list(order) == [(1, "a"), (1, "b")]


@pytest.mark.parametrize(("ratio", "is_told"), [(0.02, False), (0.4, True)])
def test_a_busy_machine_is_told(ratio, is_told):
    outcome = Outcome("peers", [], facts={"others_took_of_the_machine_ratio": ratio})
    assert ("Others used 40% of the machine" in disturbed(outcome)) is is_told


def test_a_missing_part_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setattr("loadtests.machine.which", lambda program: None)
    with pytest.raises(SystemExit, match=r"missing: h2load, go; install with: apt-get install"):
        need("h2load", "go", "psutil")


def test_a_gateway_that_does_not_start_ends_the_run_in_words(tmp_path):
    def measure(settings):
        raise Failed("gateway serve exited 1")

    with pytest.raises(SystemExit, match="nothing was measured: gateway serve exited 1"):
        measured(measure, Namespace(rounds=1, scale=1.0, nice=0))


def test_outcomes_say_how_much_was_measured():
    def measure(settings):
        return Outcome("x", [], facts={"load": f"{settings.scaled(100)} requests"})

    facts = measured(measure, Namespace(rounds=3, scale=0.5, nice=0)).facts
    assert (facts["load"], facts["rounds"], facts["scale"]) == ("50 requests", 3, 0.5)
    assert 0 <= facts["others_took_of_the_machine_ratio"] <= 1


def test_bench_refuses_a_scenario_that_it_has_not(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--only", "proxies,nothing"])
    assert "unknown: nothing" in capsys.readouterr().err


def test_results_name_no_path_and_no_host():
    text = "\n".join(p.read_text() for p in RESULTS.glob("*.json"))
    assert "/home/" not in text
    assert "/work/" not in text
    assert "/tmp/" not in text
