"""pytest fixtures of the real cluster; tests/conftest.py makes them known to every test.

A test that asks for one carries the marker `cluster` by itself. Without the programs it is skipped
with the command that gets them; in CI that is a failure.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from tests.cluster.api import Api
from tests.cluster.control_plane import ControlPlane, control_plane
from tests.cluster.node_host import PACKAGES, why_not
from tests.cluster.programs import CONTROL_PLANE, NODE, need_programs
from tests.cluster.real_node import RealNode
from tests.cluster.real_node import real_node as start_real_node
from tests.parts.need import need

LONGEST_S = 300
"""A test that starts a cluster waits for six programs; a busy machine takes minutes for it."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Before `-m` is looked at, mark what needs a cluster."""
    for item in items:
        if {"cluster", "real_node"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.cluster)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(LONGEST_S))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of each part's log beside a failure: the files are gone when the run ends."""
    report = yield
    running = getattr(item, "funcargs", {})
    if report.failed and "cluster" in running:
        parts = dict(running["cluster"].parts)
        parts |= running["real_node"].parts if "real_node" in running else {}
        report.sections += [(f"log of {name}", p.said(3000)) for name, p in parts.items()]
    return report


@pytest.fixture(scope="session")
def cluster() -> Iterator[ControlPlane]:
    """One control plane for the session. Who stops a part of it starts it again."""
    need_programs(*CONTROL_PLANE)
    with control_plane() as running:
        yield running


@pytest.fixture(scope="module")
def real_node(request: pytest.FixtureRequest) -> Iterator[RealNode]:
    """The real node, for one module: elsewhere it would be one more node to schedule on."""
    need_programs(*CONTROL_PLANE, *NODE)
    reason = why_not()
    need(reason is None, f"{PACKAGES}. Here: {reason}")
    with start_real_node(request.getfixturevalue("cluster")) as running:
        yield running


@pytest.fixture
def namespace(cluster: ControlPlane) -> Iterator[str]:
    """A namespace of this test's own, deleted with all that is in it."""
    name = cluster.namespace()
    yield name
    cluster.wait_ready()
    cluster.api.delete("namespaces", None, name)


@pytest.fixture
def kube(cluster: ControlPlane) -> Api:
    """The API, as the test itself asks it (user `tests` in the audit log)."""
    return cluster.api
