"""Until when each asset is fresh, for data that comes once a week. The UI shows it; nothing is made because of it."""

from collections.abc import Sequence
from datetime import timedelta

import dagster as dg

# Files are taken in when their content is new, so that an old one is a drop that did not come or was refused.
_ARRIVES_WEEKLY = dg.FreshnessPolicy.time_window(warn_window=timedelta(days=8), fail_window=timedelta(days=15))

# By Monday noon, six hours after the weekly refresh, all of it was made again within the week.
_MADE_WEEKLY = dg.FreshnessPolicy.cron("0 12 * * 1", lower_bound_delta=timedelta(days=7), timezone="UTC")

POLICIES: dict[str, dg.FreshnessPolicy] = {
    "train_csv": _ARRIVES_WEEKLY,
    "sales_features": _MADE_WEEKLY,
    "store_features": _MADE_WEEKLY,
    "training_frame": _MADE_WEEKLY,
    "champion_model": _MADE_WEEKLY,
    "online_features": _MADE_WEEKLY,
    "weekly_forecasts": _MADE_WEEKLY,
    "horizon_forecasts": _MADE_WEEKLY,
    "forecast_accuracy": _MADE_WEEKLY,
}


def with_freshness(assets: Sequence[dg.AssetsDefinition]) -> Sequence[dg.AssetsDefinition]:
    """The same assets, with the policies of ``POLICIES``."""
    return dg.map_asset_specs(
        lambda spec: spec.replace_attributes(freshness_policy=POLICIES.get(spec.key.to_user_string())), assets
    )
