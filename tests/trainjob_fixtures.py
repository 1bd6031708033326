"""Fixtures of the TrainJob tests."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from trainjob_jobs import Jobs, wait_until


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    """Jobs in a folder of their own, none of whose processes outlives the test."""
    jobs = Jobs(tmp_path)
    yield jobs
    for name in jobs.names():
        jobs.platform.delete(name)
    wait_until(lambda: not jobs.processes(), 5)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance that several runs share."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance
