"""The sensor of the landing zone: a new drop starts an ingestion, once per content unless that could not look at it."""

import json
import time
from datetime import UTC, datetime

import dagster as dg

from forecast_assets.assets.raw import ACCEPTED_CHECK
from forecast_assets.check_results import failed_checks
from forecast_assets.ingest.landing import Look, look
from forecast_assets.resources import Artifacts, LandingZone

RAW_ASSETS = dg.AssetSelection.assets("train_csv", "features_csv", "stores_csv")
INTERVAL_SECONDS = 10
DROP_TAG = "forecast/drop"
"""Tag of the runs that this sensor starts: the drop they are for, which is tried again if they fail."""
AGAIN_SECONDS = 600  # after a run that failed without having refused the drop; each time twice as long
_AGAIN_SECONDS_AT_MOST = 86_400


@dg.sensor(
    name="landing_zone",
    asset_selection=RAW_ASSETS,
    minimum_interval_seconds=INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Looks at the landing zone and ingests a drop when all of its parts are there and complete, and are "
    "not those in use already. Touching, copying or packing a file again is no change. A drop whose run failed for "
    "another reason than what is in it is tried again after 10 minutes, and then after twice as long each time.",
)
def landing_zone_sensor(
    context: dg.SensorEvaluationContext, landing_zone: LandingZone, artifacts: Artifacts
) -> dg.RunRequest | dg.SkipReason:
    """Compare what lies there with the last look, kept in the cursor, and with the accepted drop."""
    cursor = json.loads(context.cursor or "{}")
    seen = look(landing_zone.location(), Look.from_json(cursor.get("files")), time.time())
    requested, tries = cursor.get("requested", ""), cursor.get("tries", 1)

    def remember(requested: str, tries: int) -> None:
        context.update_cursor(json.dumps({"files": seen.to_json(), "requested": requested, "tries": tries}))

    remember(requested, tries)
    if seen.waiting_for:
        return dg.SkipReason(seen.waiting_for)
    if seen.contents == artifacts.raw.contents():
        return dg.SkipReason("nothing new: the drop that lies there is the one in use")
    # The time of the last switch tells a drop that comes back after another from one that is merely still there.
    run_key = f"{seen.identity[:16]}-{artifacts.raw.switched_at()}"
    drop = {DROP_TAG: seen.identity[:12]}
    if run_key != requested:
        remember(run_key, 1)
        return dg.RunRequest(run_key=run_key, tags=drop)
    failed_at = _failed_at(context.instance, drop)
    if failed_at is None:
        return dg.SkipReason(
            "this drop was handed to a run, and is not in use: see that run, and the checks of train_csv, features_csv "
            "and stores_csv"
        )
    again_at = failed_at + min(AGAIN_SECONDS * 2 ** (tries - 1), _AGAIN_SECONDS_AT_MOST)
    if time.time() < again_at:
        return dg.SkipReason(
            "the run that this drop was handed to failed, not by what is in the drop: it is tried again at "
            f"{datetime.fromtimestamp(again_at, UTC):%Y-%m-%d %H:%M} UTC. At once: the job ingest"
        )
    remember(run_key, tries + 1)
    return dg.RunRequest(run_key=f"{run_key}-{tries + 1}", tags=drop)


def _failed_at(instance: dg.DagsterInstance, drop: dict[str, str]) -> float | None:
    """When the newest run of the drop failed, in seconds since 1970; None if it did not, or refused the drop."""
    records = instance.get_run_records(dg.RunsFilter(tags=drop), limit=1)
    if not records or records[0].dagster_run.status != dg.DagsterRunStatus.FAILURE:
        return None
    checks = failed_checks(instance, records[0].dagster_run.run_id)
    if any(check.check_name == ACCEPTED_CHECK for check in checks):
        return None
    return records[0].end_time or records[0].update_timestamp.timestamp()
