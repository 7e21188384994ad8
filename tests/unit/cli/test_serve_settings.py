"""Settings of `gateway serve`: where they come from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway import config
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


def test_a_flavour_that_there_is_not_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="--v2-flavour is triton or kserve"):
        config.load({"v2_flavour": "seldon"})
