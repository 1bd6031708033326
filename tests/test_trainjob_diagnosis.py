"""What a failure is called follows from what can be seen of the job; what is done about it from a table."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kubeflow.trainer import BuiltinTrainer, CustomTrainerContainer, TorchTuneConfig

from forecast_assets.trainjob import Remedy, TrainJobError, errors
from forecast_assets.trainjob.diagnosis import diagnose, first_failed
from forecast_assets.trainjob.observation import JobObservation, NodeObservation
from forecast_assets.trainjob.recovery import scaled_quantity
from forecast_assets.trainjob.request import TrainJobRequest

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
TORCHRUN_REPORT = """
[rank1]: what the process itself wrote
E0101 12:00:00.000000 7 torch/distributed/elastic/multiprocessing/api.py:984] failed (exitcode: {code}) local_rank: 0
Root Cause (first observed failure):
[0]:
  time      : 2026-01-01_12:00:00
  host      : node
  rank      : 3 (local_rank: 1)
  exitcode  : {code} (pid: 7)
  error_file: <N/A>
"""


def failed_job(*, reason: str = "", exit_code: int = 1, node_reason: str = "Error") -> JobObservation:
    """A job of which node 1 failed, and node 0 was ended therefore."""
    return JobObservation(
        name="a-model",
        phase="failed",
        reason=reason,
        nodes=(
            NodeObservation(index=0, phase="failed", exit_code=-15, reason="Terminated", ended_at=NOON),
            NodeObservation(index=1, phase="failed", exit_code=exit_code, reason=node_reason, ended_at=NOON),
        ),
    )


def said(kind: str) -> list[dict[str, Any]]:
    return [{"type": "error", "kind": kind, "message": f"it is {kind}"}]


@pytest.mark.parametrize(
    ("job", "reports", "log", "error"),
    [
        (failed_job(), said("diverged"), "", errors.DivergedError),
        (failed_job(), said("cuda_out_of_memory"), "", errors.CudaOutOfMemoryError),
        (failed_job(), said("checkpoint_write"), "", errors.CheckpointWriteError),
        (failed_job(), said("lost_database"), "", errors.LostDatabaseError),
        (failed_job(), said("collective_timeout"), "", errors.CollectiveTimeoutError),
        (failed_job(), said("something new"), "", errors.JobFailedError),
        (failed_job(), [{"type": "error", "message": "no kind"}], "", errors.UserError),
        (failed_job(node_reason="OOMKilled", exit_code=137), [], "", errors.OutOfMemoryError),
        (failed_job(node_reason="Evicted"), [], "", errors.NodeLostError),
        (failed_job(reason="DeadlineExceeded"), [], "", errors.DeadlineExceededError),
        (failed_job(reason="NodeLost"), [], "", errors.NodeLostError),
        (failed_job(exit_code=137), [], "", errors.KilledError),
        (failed_job(), [], TORCHRUN_REPORT.format(code=-9), errors.KilledError),
        (failed_job(), [], TORCHRUN_REPORT.format(code=75), errors.PreemptedError),
        (failed_job(), [], TORCHRUN_REPORT.format(code=2), errors.UserError),
        (failed_job(), [], TORCHRUN_REPORT.format(code=1), errors.JobFailedError),
        (failed_job(), [], "torch.OutOfMemoryError: CUDA out of memory. Tried", errors.CudaOutOfMemoryError),
        (failed_job(), [], "RuntimeError: DefaultCPUAllocator: can't allocate memory", errors.OutOfMemoryError),
        (failed_job(), [], "Watchdog caught collective operation timeout: WorkNCCL", errors.CollectiveTimeoutError),
        (failed_job(), [], "RuntimeError: Timed out waiting 1800000ms for recv", errors.CollectiveTimeoutError),
        (failed_job(), [], "The client socket has timed out after 900000ms", errors.RendezvousTimeoutError),
        (JobObservation(name="a-model", phase="gone"), [], "", errors.JobGoneError),
        # Who waits in vain for a killed process is not the cause.
        (failed_job(node_reason="OOMKilled"), said("collective_timeout"), "", errors.OutOfMemoryError),
        (failed_job(), said("collective_timeout"), TORCHRUN_REPORT.format(code=-9), errors.KilledError),
        # What a process says of itself counts more than how torchrun ended the others.
        (failed_job(exit_code=137), said("diverged"), "", errors.DivergedError),
    ],
)
def test_every_failure_has_a_name(
    job: JobObservation, reports: list[dict[str, Any]], log: str, error: type[TrainJobError]
) -> None:
    assert diagnose(job, reports, "", {1: log.splitlines()}).error is error


def test_the_diagnosis_names_the_rank_and_shows_what_it_wrote_before_torchrun_noticed() -> None:
    diagnosis = diagnose(failed_job(), [], "", {1: TORCHRUN_REPORT.format(code=-9).strip().splitlines()})

    assert diagnosis.summary.startswith("rank 3 was ended by SIGKILL")
    assert diagnosis.exit_code == -9
    assert diagnosis.log_tail == ["[rank1]: what the process itself wrote"]


def test_the_node_that_failed_first_counts() -> None:
    later = NodeObservation(index=0, phase="failed", exit_code=1, ended_at=NOON + timedelta(seconds=1))
    earlier = NodeObservation(index=1, phase="failed", exit_code=1, ended_at=NOON)

    assert first_failed(JobObservation(name="a-model", phase="failed", nodes=(later, earlier))) == earlier


def test_kinds_are_told_apart_by_their_names() -> None:
    def all_below(error: type[TrainJobError]) -> list[type[TrainJobError]]:
        return [error, *(each for child in error.__subclasses__() for each in all_below(child))]

    kinds = [error.kind for error in all_below(TrainJobError)]

    assert len(set(kinds)) == len(kinds)
    assert set(kinds) >= errors.RECOVERABLE_KINDS
    drawing = errors.__doc__ or ""
    assert all(error.__name__ in drawing for error in all_below(TrainJobError))


@pytest.mark.parametrize(
    ("quantity", "expected"), [("4Gi", "6Gi"), ("1536Mi", "2304Mi"), (2_000, "3000"), ("0.5Gi", "0.75Gi")]
)
def test_memory_is_scaled_in_its_own_unit(quantity: Any, expected: str) -> None:
    assert scaled_quantity(quantity, 1.5) == expected


def test_what_is_no_quantity_cannot_be_scaled() -> None:
    with pytest.raises(ValueError, match="'much' is not a quantity"):
        scaled_quantity("much", 1.5)


@pytest.mark.parametrize("builtin", [True, False])
def test_more_memory_is_asked_for_whatever_the_trainer(builtin: bool) -> None:
    resources = {"cpu": 2, "memory": "4Gi"}
    trainer: Any = (
        BuiltinTrainer(config=TorchTuneConfig(resources_per_node=resources))
        if builtin
        else CustomTrainerContainer(image="x", resources_per_node=resources)
    )

    adjusted = TrainJobRequest(trainer=trainer).adjusted(Remedy("more memory", memory_factor=1.5)).trainer

    assert (adjusted.config if builtin else adjusted).resources_per_node == {"cpu": 2, "memory": "6Gi"}
    assert resources["memory"] == "4Gi"


def test_a_remedy_leaves_everything_else_alone() -> None:
    remedy = Remedy("half the batch", multiply={"batch_size": 0.5, "absent": 2}, replace={"checkpointing": True})

    assert remedy.adjusted_spec({"batch_size": 3, "seed": 1}) == {"batch_size": 2, "seed": 1, "checkpointing": True}
    assert remedy.adjusted_spec({"batch_size": 1})["batch_size"] == 1
