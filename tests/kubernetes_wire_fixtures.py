"""Fixtures of the tests against the fake Kubernetes API server, which name this module in ``pytest_plugins``."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes_wire import Wire
from kubernetes_wire_cluster import NAMESPACE, Cluster

from forecast_assets.trainjob.kubernetes import KubernetesPlatform


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.close()


@pytest.fixture
def cluster(wire: Wire) -> Cluster:
    return Cluster(wire)


@pytest.fixture
def platform(wire: Wire, tmp_path: Path) -> KubernetesPlatform:
    kubeconfig = wire.write_kubeconfig(tmp_path / "kubeconfig", NAMESPACE)
    return KubernetesPlatform(
        namespace=NAMESPACE,
        runtime="forecast-torch-cpu",
        kubeconfig=str(kubeconfig),
        poll_seconds=0.05,
        delete_seconds=2,
    )
