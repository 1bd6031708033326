"""Telling people, through a webhook that takes Slack's JSON, when a run or a check has failed.

``ALERT_WEBHOOK_URL`` is where to post (Slack, Mattermost, Rocket.Chat, or anything that takes ``{"text": …}``), and
``DAGSTER_UI_URL``, if it is set, is where links lead. A message says what failed, since when, what goes on working all
the same, and what to do next.
"""

import logging
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg
from dagster import AssetCheckSeverity, DagsterEventType, RunsFilter

from forecast_assets.assets.raw import ACCEPTED_CHECK
from forecast_assets.check_results import failed_checks
from forecast_assets.console import reason
from forecast_assets.landing_sensor import DROP_TAG
from forecast_assets.resources import Artifacts
from forecast_assets.webhook import DeliveryError, post

_COMMAND = "dagster asset materialize -m forecast_assets.definitions --select"
_HISTORY = 100  # runs or evaluations looked at to find when a failure began
_INTERVAL_SECONDS = 15


@dataclass(frozen=True, slots=True)
class Alert:
    """One message, in Slack's markup."""

    what: str
    since: str
    still_works: str
    next_step: str

    @property
    def text(self) -> str:
        return f"{self.what}\n*Since:* {self.since}\n*Still works:* {self.still_works}\n*Next step:* {self.next_step}"


@dg.run_failure_sensor(
    name="tell_failed_runs",
    minimum_interval_seconds=_INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Posts each failed run to ALERT_WEBHOOK_URL.",
)
def tell_failed_runs(context: dg.RunFailureSensorContext, artifacts: Artifacts) -> None:
    """Post the steps and checks that failed, in their own words."""
    steps = {event.step_key or "": reason(event) for event in context.get_step_failure_events()}
    _deliver(
        failed_run_alert(context.instance, context.dagster_run, steps, context.failure_event.message or "", artifacts),
        context.log,
    )


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.SUCCESS,
    name="tell_failed_checks",
    minimum_interval_seconds=_INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Posts the checks that failed in a run which did not, to ALERT_WEBHOOK_URL.",
)
def tell_failed_checks(context: dg.RunStatusSensorContext, artifacts: Artifacts) -> None:
    """Post the failed checks, if there are any; those of failed runs are told with the run."""
    alert = failed_checks_alert(context.instance, context.dagster_run, artifacts)
    if alert is not None:
        _deliver(alert, context.log)


def failed_run_alert(
    instance: dg.DagsterInstance, run: dg.DagsterRun, steps: dict[str, str], message: str, artifacts: Artifacts
) -> Alert:
    """What to say of a failed run.

    Args:
        steps: why each failed step failed.
        message: what Dagster says of the run, for one that failed outside of a step.
    """
    unmade = _unmade_assets(instance, run, steps)
    lines = [f":red_circle: *{', '.join(steps) or 'A run'}* failed in {_run_link(run)}"]
    lines += [f"> {_escaped(why)}" for why in steps.values()] or [f"> {_escaped(message)}"]
    told = " ".join(steps.values())
    failed = failed_checks(instance, run.run_id)
    checks = [check for check in failed if _reason(check) not in told or not _reason(check)]
    lines += [f"> check {_named(check)} failed" for check in checks]
    if unmade:
        lines.append(f"Not made: {', '.join(unmade)}")
    if any(check.check_name == ACCEPTED_CHECK for check in failed):
        next_step = (
            "send the corrected file to the landing zone: it is taken up by itself. A refused file is in "
            "`quarantine/` there, with the reason beside it."
        )
    elif "raw_drop" in steps and DROP_TAG in run.tags:
        next_step = (
            "read the run and mend the cause: the drop still lies in the landing zone, and is tried again after a "
            "while. To have it at once, start the job `ingest`."
        )
    else:
        select = " or ".join(f"key:{name}" for name in unmade) or "*"
        next_step = f"read the run, mend the cause, then `{_COMMAND} '{select}'`"
    return Alert("\n".join(lines), _since(instance, run, unmade), _still_works(artifacts), next_step)


def failed_checks_alert(instance: dg.DagsterInstance, run: dg.DagsterRun, artifacts: Artifacts) -> Alert | None:
    """What to say of the checks that failed in a run that succeeded; None if all passed."""
    failed = failed_checks(instance, run.run_id)
    if not failed:
        return None
    errors = any(check.severity == AssetCheckSeverity.ERROR for check in failed)
    lines = [f"{':red_circle:' if errors else ':warning:'} *{len(failed)} failed* in {_run_link(run)}"]
    lines += [f"> {_named(check)} ({check.severity.value.lower()})" for check in failed]
    since = "; ".join(f"{check.check_name} {_moment(_failing_since(instance, check))}" for check in failed)
    names = sorted({check.asset_key.to_user_string() for check in failed})
    select = " or ".join(f"key:{name}" for name in names)
    return Alert(
        "\n".join(lines),
        since,
        _still_works(artifacts),
        f"look at the Checks tab of {', '.join(names)}; when the cause is mended, `{_COMMAND} '{select}'`",
    )


def _deliver(alert: Alert, log: logging.Logger) -> None:
    url = os.environ.get("ALERT_WEBHOOK_URL")
    if not url:
        log.warning(f"ALERT_WEBHOOK_URL is not set, so nobody is told: {alert.text}")
        return
    try:
        post(url, {"text": alert.text})
    except DeliveryError as error:
        log.error(f"{error}. What was not told: {alert.text}")


def _unmade_assets(instance: dg.DagsterInstance, run: dg.DagsterRun, failed_steps: Collection[str]) -> list[str]:
    """The assets that the run was to make and did not, those of the failed steps first."""
    planned = instance.get_records_for_run(run.run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION_PLANNED).records
    made = instance.get_records_for_run(run.run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION).records
    done = {record.asset_key for record in made}
    unmade = {
        (record.event_log_entry.step_key not in failed_steps, record.asset_key.to_user_string())
        for record in planned
        if record.asset_key is not None and record.asset_key not in done
    }
    return [name for _, name in sorted(unmade)]


def _since(instance: dg.DagsterInstance, run: dg.DagsterRun, unmade: Sequence[str]) -> str:
    """When the present row of failures began, and when the first of the assets was last made."""
    if not unmade:
        return _moment(_started(instance, run.run_id))
    asset = dg.AssetKey(unmade[0])
    last = instance.get_latest_materialization_event(asset)
    failed = instance.get_run_records(RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]), limit=_HISTORY)
    begun = [
        record.create_timestamp.timestamp()
        for record in failed
        if asset in (record.dagster_run.asset_selection or {asset})
        and record.create_timestamp.timestamp() > (last.timestamp if last else 0)
    ]
    before = f"{asset.to_user_string()} was last made {_moment(last.timestamp)}" if last else "it was never made before"
    return f"{_moment(min(begun, default=_started(instance, run.run_id)))}; {before}"


def _started(instance: dg.DagsterInstance, run_id: str) -> float:
    record = instance.get_run_record_by_id(run_id)
    return record.create_timestamp.timestamp() if record else datetime.now(UTC).timestamp()


def _failing_since(instance: dg.DagsterInstance, check: dg.AssetCheckEvaluation) -> float:
    """When the check failed for the first time since it last passed."""
    history = instance.event_log_storage.get_asset_check_execution_history(check.asset_check_key, limit=_HISTORY)
    since = datetime.now(UTC).timestamp()
    for record in history:
        if record.status.value == "SUCCEEDED":
            break
        since = record.create_timestamp
    return since


def _still_works(artifacts: Artifacts) -> str:
    champion = artifacts.models.champion()
    weeks = sorted(path.stem for path in artifacts.forecasts.glob("*.parquet"))
    if champion is None:
        return "nothing serves yet: there is no champion"
    forecasts = f", and the forecasts for the week of {weeks[-1]} stay" if weeks else ""
    return f"the champion {champion.name} goes on serving{forecasts}"


def _named(check: dg.AssetCheckEvaluation) -> str:
    why = _reason(check)
    return f"{check.asset_key.to_user_string()}: {check.check_name}" + (f", {_escaped(why)}" if why else "")


def _reason(check: dg.AssetCheckEvaluation) -> str:
    return str(check.metadata["reason"].value) if "reason" in check.metadata else ""


def _run_link(run: dg.DagsterRun) -> str:
    ui = os.environ.get("DAGSTER_UI_URL", "").rstrip("/")
    name = f"run {run.run_id[:8]}"
    return f"<{ui}/runs/{run.run_id}|{name}>" if ui else f"{name} ({run.run_id})"


def _moment(timestamp: float) -> str:
    return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%d %H:%M} UTC"


def _escaped(text: str) -> str:
    """As Slack wants it; no secret of the environment is in it, and nothing is endless."""
    for name, value in os.environ.items():
        if value and len(value) > 3 and name.endswith(("PASSWORD", "SECRET", "TOKEN", "WEBHOOK_URL")):
            text = text.replace(value, f"[{name}]")
    text = text if len(text) <= 1_500 else text[:1_500] + " …"
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", "\n> ")
