# SPDX-License-Identifier: Apache-2.0
"""Running boards for tests, started when first asked for and shared by the session."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hosts import Boards, Host


@pytest.fixture(scope="session")
def boards() -> Iterator[Boards]:
    boards = Boards()
    yield boards
    boards.stop()


@pytest.fixture
def host(boards: Boards) -> Host:
    """A host with two CPUs."""
    return boards.host(2)


@pytest.fixture(autouse=True)
def console_on_failure(request: pytest.FixtureRequest) -> Iterator[None]:
    """Show the end of the board's console with a failing test."""
    yield
    host = request.node.funcargs.get("host") if hasattr(request.node, "funcargs") else None
    if isinstance(host, Host) and getattr(request.node, "failed", False):
        print(f"--- the board's console\n{host.board.qemu.console_text()[-3000:]}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.failed = report.failed  # pyright: ignore[reportAttributeAccessIssue]
    return report


@pytest.fixture(scope="session")
def source_tree() -> Path:
    return Path(__file__).parents[1]
