"""The sensor of the landing zone: a new drop starts an ingestion, once per content."""

import json
import time

import dagster as dg

from forecast_assets.ingest.landing import Look, look
from forecast_assets.resources import Artifacts, LandingZone

RAW_ASSETS = dg.AssetSelection.assets("train_csv", "features_csv", "stores_csv")
INTERVAL_SECONDS = 10


@dg.sensor(
    name="landing_zone",
    asset_selection=RAW_ASSETS,
    minimum_interval_seconds=INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Looks at the landing zone and ingests a drop when all of its parts are there and complete, and are "
    "not those in use already. Touching, copying or packing a file again is no change.",
)
def landing_zone_sensor(
    context: dg.SensorEvaluationContext, landing_zone: LandingZone, artifacts: Artifacts
) -> dg.RunRequest | dg.SkipReason:
    """Compare what lies there with the last look, kept in the cursor, and with the accepted drop."""
    cursor = json.loads(context.cursor or "{}")
    seen = look(landing_zone.location(), Look.from_json(cursor.get("files")), time.time())
    requested = cursor.get("requested", "")

    def remember(requested: str) -> None:
        context.update_cursor(json.dumps({"files": seen.to_json(), "requested": requested}))

    remember(requested)
    if seen.waiting_for:
        return dg.SkipReason(seen.waiting_for)
    if seen.contents == artifacts.raw.contents():
        return dg.SkipReason("nothing new: the drop that lies there is the one in use")
    # The time of the last switch tells a drop that comes back after another from one that is merely still there.
    run_key = f"{seen.identity[:16]}-{artifacts.raw.switched_at()}"
    if run_key == requested:
        return dg.SkipReason(
            "this drop was handed to a run, and is not in use: see that run, and the checks of train_csv, features_csv "
            "and stores_csv"
        )
    remember(run_key)
    return dg.RunRequest(run_key=run_key, tags={"forecast/drop": seen.identity[:12]})
