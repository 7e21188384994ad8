"""Settings of `gateway serve`: where they come from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway import app, config
from gateway.domain.errors import InvalidRequest


def test_flags_win_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GATEWAY_V2_FLAVOUR", raising=False)
    file = tmp_path / "gateway.toml"
    file.write_text('v2_flavour = "kserve"\n')
    assert config.load({}).v2_flavour == "triton"
    assert config.load({}, file).v2_flavour == "kserve"
    monkeypatch.setenv("GATEWAY_V2_FLAVOUR", "triton")
    assert config.load({}, file).v2_flavour == "triton"
    assert config.load({"v2_flavour": "kserve"}, file).v2_flavour == "kserve"


def test_what_waits_is_set_by_flag_variable_and_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("adaptive_limit = false\nqueue_limit = 7\n")
    settings = config.load({}, file)
    assert (settings.adaptive_limit, settings.queue_limit) == (False, 7)
    monkeypatch.setenv("GATEWAY_ADAPTIVE_LIMIT", "true")
    assert config.load({"queue_limit": 9}, file).adaptive_limit
    assert config.load({"queue_limit": 9}, file).queue_limit == 9
    with pytest.raises(InvalidRequest, match="--queue-limit"):
        config.load({"queue_limit": -1})


def test_a_flavour_that_there_is_not_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="--v2-flavour is triton or kserve"):
        config.load({"v2_flavour": "seldon"})


def test_the_window_of_scaling_is_set_in_the_file_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("scale_window_s = 6\n")
    assert config.load({}).scale_window_s == 60.0
    assert config.load({}, file).scale_window_s == 6.0
    file.write_text("scale_window_s = 0.5\n")
    with pytest.raises(InvalidRequest, match=r"scale-window-s must be at least 1\.0 seconds"):
        config.load({}, file)


def test_the_rule_of_the_balancer_is_set_in_the_file_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('balance_rule = "in_flight"\n')
    assert config.load({}).balance_rule == "work"
    assert config.load({}, file).balance_rule == "in_flight"
    file.write_text('balance_rule = "random"\n')
    with pytest.raises(InvalidRequest, match="balance_rule is one of work, hot_cold, in_flight"):
        config.load({}, file)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"tls_cert": "a.crt"}, "--tls-cert and --tls-key go together"),
        ({"tls_key": "a.key"}, "--tls-cert and --tls-key go together"),
        ({"tls_client_ca": "ca.crt"}, "--tls-client-ca needs --tls-cert and --tls-key"),
    ],
)
def test_tls_files_that_are_of_no_use_alone_are_refused(flags: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        config.load(flags)


def test_tls_files_are_taken_from_the_file_of_settings_too(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('tls_cert = "a.crt"\ntls_key = "a.key"\ntls_client_ca = "ca.crt"\n')
    settings = config.load({}, file)
    assert (settings.tls_cert, settings.tls_key, settings.tls_client_ca) == (
        "a.crt",
        "a.key",
        "ca.crt",
    )


def test_a_database_is_postgresql_and_its_password_is_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GATEWAY_DATABASE_URL", "postgresql://u:s3cret@h/d")
    settings = config.load({"lease_s": 3})
    assert (settings.database_url, settings.lease_s) == ("postgresql://u:s3cret@h/d", 3.0)
    assert "s3cret" not in repr(settings)
    for url in ("sqlite:///x.db", "mysql://u:s3cret@h/d"):
        with pytest.raises(InvalidRequest, match="postgresql://") as refused:
            config.load({"database_url": url})
        assert "s3cret" not in refused.value.message


@pytest.mark.parametrize("lease_s", [0.5, 601, float("nan")])
def test_a_lease_that_is_too_short_or_too_long_is_refused(lease_s: float) -> None:
    with pytest.raises(InvalidRequest, match="--lease-s"):
        config.load({"lease_s": lease_s})


@pytest.mark.parametrize(
    ("address", "is_taken"),
    [
        ("127.0.0.1:0", True),
        ("127.8.9.10:0", True),
        ("localhost:0", True),
        ("[::1]:0", True),
        ("0.0.0.0:0", False),
        ("[::]:0", False),
        ("[::1f]:0", False),
        ("127.example.com:0", False),
        ("localhost.example.com:0", False),
    ],
)
def test_only_addresses_of_this_machine_are_taken_without_keys(
    address: str, is_taken: bool
) -> None:
    for port in ("http", "grpc", "control"):
        assert config.load({port: address, "insecure": True})
        if is_taken:
            assert config.load({port: address})
            continue
        with pytest.raises(InvalidRequest, match="can be reached from other machines") as refused:
            config.load({port: address})
        assert refused.value.reason == "insecure_bind"


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        ({"http": ":0"}, 2),
        ({"database_url": "mysql://h/d"}, 2),
        ({"tls_cert": "/cert.pem"}, 2),
        ({"http": "0.0.0.0:0"}, 1),
        ({"state": "/proc/none"}, 1),
    ],
)
def test_wrong_usage_is_told_from_what_is_refused(
    flags: dict[str, str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    local = {"http": "127.0.0.1:0", "grpc": "127.0.0.1:0", "control": "127.0.0.1:0"}
    assert app.main(local | flags) == code
    assert capsys.readouterr().err.startswith("gateway serve: ")
