"""Jobs for doing by hand what the automation does by itself, and a weekly run in case it did not."""

import time
from pathlib import Path

import dagster as dg

from forecast_assets.ingest.drop import FILES
from forecast_assets.ingest.files import DropRefusedError, candidates, content_hash_of
from forecast_assets.ingest.landing import PATIENCE
from forecast_assets.landing_sensor import RAW_ASSETS
from forecast_assets.resources import Artifacts, LandingZone

_INGEST = dg.AssetSelection.groups("raw", "features", "feature_store")
_RETRAIN = dg.AssetSelection.assets("candidate_model", "champion_model")
_FORECAST = dg.AssetSelection.assets("online_features", "weekly_forecasts", "horizon_forecasts")
_EVERYTHING = _INGEST | _RETRAIN | _FORECAST | dg.AssetSelection.assets("forecast_accuracy")

ingest = dg.define_asset_job(
    "ingest",
    _INGEST,
    description="Take what lies in the landing zone, down to the training frame and its checks.",
)
retrain = dg.define_asset_job(
    "retrain",
    _RETRAIN,
    description="Train on the present frame, and let the candidate serve if it is good enough.",
)
forecast = dg.define_asset_job(
    "forecast",
    _FORECAST,
    description="Forecast the coming weeks with the present champion.",
)
full_refresh = dg.define_asset_job(
    "full_refresh", _EVERYTHING, description="From the landing zone to forecasts. What has not changed is not redone."
)


@dg.schedule(
    name="weekly_refresh",
    job=full_refresh,
    cron_schedule="0 6 * * 1",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Mondays at 6:00 UTC: a full refresh, in case a sensor was off or a run failed. Where the landing zone "
    "holds no whole drop, one written to in the last minute, or the one in use, it starts from the drop accepted last.",
)
def weekly_refresh(
    context: dg.ScheduleEvaluationContext, landing_zone: LandingZone, artifacts: Artifacts
) -> dg.RunRequest | dg.SkipReason:
    """Start from the landing zone, from the accepted drop, or not at all."""
    if not artifacts.raw.contents():
        return dg.SkipReason("no drop has been accepted yet: there is nothing to refresh")
    if _holds_a_new_drop(landing_zone.location(), artifacts):
        return dg.RunRequest()
    graph = context.repository_def.asset_graph if context.repository_def else None
    assert graph is not None  # noqa: S101 - schedules are evaluated in a code location
    return dg.RunRequest(asset_selection=sorted((_EVERYTHING - RAW_ASSETS).resolve(graph)))


def _holds_a_new_drop(folder: Path, artifacts: Artifacts) -> bool:
    """The landing zone holds a whole drop, which is not the one in use, and which nobody has written to lately."""
    found = {name: candidates(folder, name) for name in FILES}
    if any(len(paths) != 1 for paths in found.values()):
        return False
    try:
        if any(time.time() - path.stat().st_mtime < PATIENCE for (path,) in found.values()):
            return False  # it may not be complete; the sensor takes it up when it is
        return {name: content_hash_of(path, name) for name, (path,) in found.items()} != artifacts.raw.contents()
    except FileNotFoundError:  # it was there a moment ago
        return False
    except DropRefusedError:  # the run says why
        return True
