"""The candidate is trained by a TrainJob whose size follows from the frame, and is watched in the UI."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from trainjob_jobs import processes_below, wait_until

from feature_repo.paths import PROJECT_ROOT
from forecast_assets.assets.model import candidate_model
from forecast_assets.resources import Artifacts, TrainJobs
from forecast_assets.training_resources import ResourceLimits, training_resources
from forecast_assets.training_run import RECOVERY
from forecast_assets.trainjob.errors import RECOVERABLE_KINDS
from trainer.bundle import bundle_hash, read_sidecar, write_sidecar

sys.path.insert(0, str(PROJECT_ROOT / "tests" / "trainer"))
from trainer_frames import made_up_table

SPEC = {"members": 1, "num_epochs": 2}


def with_a_frame(folder: Path) -> Artifacts:
    """A published frame and nothing else."""
    artifacts = Artifacts(path=str(folder))
    artifacts.frames.publish(made_up_table(), feature_service="", feature_service_hash="")
    return artifacts


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return with_a_frame(tmp_path / "artifacts")


def train(artifacts: Artifacts, instance: dg.DagsterInstance, **config: Any) -> dg.ExecuteInProcessResult:
    jobs = TrainJobs(artifacts=artifacts)
    return dg.materialize(
        [candidate_model],
        instance=instance,
        resources={"artifacts": artifacts, "train_jobs": jobs},
        run_config={"ops": {"candidate_model": {"config": {"spec": SPEC, **config}}}},
        raise_on_error=False,
    )


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Artifacts, dg.DagsterInstance, dg.ExecuteInProcessResult]]:
    """One training, the instance that remembers it, and what became of it."""
    artifacts = with_a_frame(tmp_path_factory.mktemp("artifacts"))
    with dg.DagsterInstance.ephemeral() as instance:
        yield artifacts, instance, train(artifacts, instance, limits={"cpus": 4})


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (event,) = result.asset_materializations_for_node("candidate_model")
    return {name: value.value for name, value in event.metadata.items()}


def test_a_training_shows_its_epochs_live_its_size_and_its_job_and_is_not_repeated(
    trained: tuple[Artifacts, dg.DagsterInstance, dg.ExecuteInProcessResult],
) -> None:
    artifacts, instance, first = trained
    again = train(artifacts, instance)
    observations = instance.fetch_observations(candidate_model.key, limit=10, ascending=True).records
    entries = [entry.user_message for entry in instance.all_logs(first.run_id)]

    shown = metadata(first)
    live: list[dict[str, Any]] = [
        {name: value.value for name, value in record.asset_observation.metadata.items()}
        for record in observations
        if record.asset_observation
    ]
    epochs = [each for each in live if "live/wmae" in each]
    assert [each["live/epoch"] for each in epochs] == [1, 2]
    assert [each["live/progress_percent"] for each in epochs] == [50.0, 100.0]
    assert all(each["live/training_loss"] > 0 for each in epochs)
    assert any(entry.startswith("epoch 2/2: loss ") for entry in entries)
    assert shown["resources/nodes"] == shown["resources/cpus_per_node"] == 1
    assert Path(shown["trainjob/folder"]).is_dir()
    candidate = artifacts.models.candidate()
    assert candidate is not None
    (event,) = first.asset_materializations_for_node("candidate_model")
    assert event.tags is not None
    assert event.tags["dagster/data_version"] == bundle_hash(candidate)
    assert metadata(again)["trained"] is False
    wait_until(lambda: not processes_below(artifacts.root), 5)


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(("damage", "retrain"), [(flip_a_bit, False), (Path.unlink, True)])
def test_a_bundle_with_a_damaged_sidecar_is_made_again(
    trained: tuple[Artifacts, dg.DagsterInstance, Any], damage: Callable[[Path], None], retrain: bool
) -> None:
    artifacts, instance, _ = trained
    bundle = artifacts.models.candidate()
    assert bundle is not None
    whole = bundle_hash(bundle)
    damage(bundle / "bundle.json")

    again = train(artifacts, instance, retrain=retrain)

    said = "\n".join(entry.user_message for entry in instance.all_logs(again.run_id))
    assert "the bundle of this frame cannot be used, so it is made again: bundle " in said
    assert metadata(again)["trained"] is True
    assert bundle_hash(bundle) == whole


def test_a_retraining_leaves_what_may_serve_as_it_is_and_gives_no_model_a_second_name(
    trained: tuple[Artifacts, dg.DagsterInstance, Any],
) -> None:
    artifacts, instance, _ = trained
    models, serving = artifacts.models, artifacts.models.candidate()
    assert serving is not None
    facts = read_sidecar(serving)
    write_sidecar(serving, {**facts, "spread": [1.0, 1.0]})  # as if it had been trained on another machine
    models.promote(serving)
    before = bundle_hash(serving)

    again = train(artifacts, instance, retrain=True)
    other = models.candidate()
    assert metadata(again)["trained"] is True
    assert (models.champion(), bundle_hash(serving)) == (serving, before)
    assert other == models.bundle(f"{serving.name}-{again.run_id[:8]}")
    assert read_sidecar(other)["spread"] == facts["spread"]

    assert metadata(train(artifacts, instance))["trained"] is False
    assert models.candidate() == other

    once_more = train(artifacts, instance, retrain=True)
    assert metadata(once_more)["trained"] is True
    assert models.candidate() == other
    assert sorted(models.kept()) == sorted([serving, other])


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("TRAIN_BACKEND", "cloud", "TRAIN_BACKEND is 'cloud'; allowed: local, container, kubernetes"),
        ("TRAIN_PROCESSES", "many", "TRAIN_PROCESSES is 'many'"),
        ("TRAIN_BACKEND", "container", "no container engine answers"),
        ("TRAIN_BACKEND", "kubernetes", "no cluster is configured"),
    ],
)
def test_a_wrong_setting_is_named(
    artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch, name: str, value: str, complaint: str, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("TRAIN_CONTAINER_SOCKET", f"unix://{tmp_path}/none.sock")
    monkeypatch.setenv(name, value)

    with dg.DagsterInstance.ephemeral() as instance:
        result = train(artifacts, instance)

    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert complaint in str(failure.step_failure_data.user_failure_data)
    assert "Traceback" not in str(failure.step_failure_data.user_failure_data)


def test_every_recovery_is_of_a_failure_that_there_is() -> None:
    assert RECOVERY.keys() == RECOVERABLE_KINDS


LIMITS = ResourceLimits(nodes=4, cpus=8, memory_gib=32, gpus=0)


def size(rows: int, model_type: str = "mlp", columns: int = 40, limits: ResourceLimits = LIMITS) -> Any:
    return training_resources(rows=rows, columns=columns, model_type=model_type, limits=limits)


def test_a_larger_frame_asks_for_more_until_the_limits() -> None:
    sizes = [size(rows) for rows in (0, 10_000, 421_570, 2_000_000, 10_000_000, 100_000_000)]

    assert [each.nodes * each.cpus for each in sizes] == sorted(each.nodes * each.cpus for each in sizes)
    assert [each.memory_gib for each in sizes] == sorted(each.memory_gib for each in sizes)
    assert (sizes[0].nodes, sizes[0].cpus) == (1, 1)
    assert (sizes[2].nodes, sizes[2].cpus) == (1, 3)
    assert (sizes[-1].nodes, sizes[-1].cpus, sizes[-1].memory_gib) == (4, 8, 32)
    assert [bool(each.limited) for each in sizes] == [False] * 4 + [True] * 2


def test_columns_cost_memory_and_no_processes() -> None:
    narrow, wide = size(2_000_000, columns=10), size(2_000_000, columns=80)

    assert narrow.memory_gib < wide.memory_gib
    assert (narrow.nodes, narrow.cpus) == (wide.nodes, wide.cpus)


def test_only_a_model_that_gains_by_it_asks_for_gpus() -> None:
    limits = ResourceLimits(nodes=2, cpus=8, memory_gib=64, gpus=2)

    assert size(421_570, "mlp", limits=limits).gpus == 0
    assert size(50_000, "tft", limits=limits).per_node() == {"cpu": 2, "memory": "1024Mi", "gpu": 1}
    large = size(421_570, "tft", limits=limits)
    assert (large.nodes, large.gpus) == (2, 2)
    assert large.limited == ("4 of 5 processes",)
