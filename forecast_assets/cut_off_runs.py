"""Runs whose process is gone, as after a crash of the machine or of ``dagster dev``: they count as running for ever.

Dagster's own monitoring asks the launcher, and the one that starts processes on this machine has no answer. Such a run
would hold its pools, so that everything waits for it. Marked as failed, it is started again by Dagster's run retries,
and a TrainJob that outlived it is adopted.
"""

import dagster as dg
import psutil
from dagster._core.launcher import DefaultRunLauncher

INTERVAL_SECONDS = 30
_START_SLACK_SECONDS = 5


@dg.sensor(
    name="cut_off_runs",
    minimum_interval_seconds=INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Marks runs as failed whose process on this machine is gone, so that they are started again.",
)
def cut_off_runs_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Look at every run that counts as running."""
    if not isinstance(context.instance.run_launcher, DefaultRunLauncher):
        return dg.SkipReason("runs are not processes of this machine")
    records = context.instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    cut_off = [
        record.dagster_run
        for record in records
        if _is_cut_off(context.instance, record) and _is_still_started(context.instance, record)
    ]
    for run in cut_off:
        context.instance.report_run_failed(
            run, "The run's process is gone, as after a crash or a restart of the machine. It is started again."
        )
        context.log.info(f"run {run.run_id[:8]} ({run.job_name}) was cut off: its process is gone")
    return dg.SkipReason(f"{len(cut_off)} of {len(records)} runs were cut off")


def _is_cut_off(instance: dg.DagsterInstance, record: dg.RunRecord) -> bool:
    pid = _process_of(instance, record.dagster_run.run_id)
    if pid is None or record.start_time is None:
        return False
    try:
        # A later process may have the same number.
        return psutil.Process(pid).create_time() > record.start_time + _START_SLACK_SECONDS
    except psutil.NoSuchProcess:
        return True


def _is_still_started(instance: dg.DagsterInstance, record: dg.RunRecord) -> bool:
    """Asked after the process was found gone: a run that succeeds ends with its process."""
    run = instance.get_run_by_id(record.dagster_run.run_id)
    return run is not None and run.status == dg.DagsterRunStatus.STARTED


def _process_of(instance: dg.DagsterInstance, run_id: str) -> int | None:
    """The number of the process that the run said it is."""
    events = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT, limit=20).records
    for record in events:
        event = record.event_log_entry.dagster_event
        pid = event.engine_event_data.metadata.get("pid") if event else None
        if pid is not None:
            return int(str(pid.value))
    return None
