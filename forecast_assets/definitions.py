"""The code location: every asset, check, job and resource, listed."""

import dagster as dg

from forecast_assets.alerts import tell_failed_checks, tell_failed_runs
from forecast_assets.assets.accuracy import forecast_accuracy, inputs_as_in_training
from forecast_assets.assets.backtest import backtest
from forecast_assets.assets.champion import champion_model
from forecast_assets.assets.features import sales_features, sales_windows, store_features
from forecast_assets.assets.forecasts import weekly_forecasts
from forecast_assets.assets.horizon import horizon_forecasts
from forecast_assets.assets.model import candidate_model
from forecast_assets.assets.online import online_features
from forecast_assets.assets.raw import raw_drop
from forecast_assets.assets.registry import feast_registry
from forecast_assets.assets.training_frame import training_frame
from forecast_assets.automation import automated, automation_sensor
from forecast_assets.checks import training_frame_checks
from forecast_assets.code_references import with_code_references
from forecast_assets.console import progress_logger
from forecast_assets.cut_off_runs import cut_off_runs_sensor
from forecast_assets.freshness import with_freshness
from forecast_assets.jobs import forecast, full_refresh, ingest, retrain, weekly_refresh
from forecast_assets.landing_sensor import landing_zone_sensor
from forecast_assets.resources import Artifacts, FeastStore, LandingZone, Postgres, TrainJobs
from forecast_assets.rollback import rollback

postgres = Postgres()
artifacts = Artifacts()

ASSETS = [
    raw_drop,
    sales_features,
    store_features,
    sales_windows,
    feast_registry,
    training_frame,
    candidate_model,
    champion_model,
    online_features,
    weekly_forecasts,
    horizon_forecasts,
    forecast_accuracy,
    backtest,
]

defs = dg.Definitions(
    assets=with_code_references(with_freshness(automated(ASSETS))),
    asset_checks=[training_frame_checks, inputs_as_in_training],
    jobs=[ingest, retrain, forecast, full_refresh, rollback],
    schedules=[weekly_refresh],
    sensors=[landing_zone_sensor, automation_sensor, cut_off_runs_sensor, tell_failed_runs, tell_failed_checks],
    resources={
        "postgres": postgres,
        "feast": FeastStore(postgres=postgres),
        "landing_zone": LandingZone(),
        "artifacts": artifacts,
        "train_jobs": TrainJobs(artifacts=artifacts),
    },
    loggers={"console": dg.colored_console_logger, "progress": progress_logger},
    # Steps are short or only wait for a job: a process for each would cost more than it isolates.
    executor=dg.in_process_executor,
)
