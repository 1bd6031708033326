"""When each asset is made again, by itself: declared as conditions on its upstreams, not as a sequence of steps.

A drop that is accepted has new tables made, with them feature views and frame, and, by the present champion, forecasts
of the new week. A frame whose content changed has a candidate trained; the champion follows, then forecasts by it.
"""

from collections.abc import Sequence
from typing import Any

import dagster as dg

Condition = dg.AutomationCondition

_NOT_BY_THE_SAME_RUN = ~Condition.executed_with_root_target()


def _when(change: dg.AutomationCondition[Any]) -> dg.AutomationCondition[Any]:
    """Once for each ``change``, when upstreams are there and nothing concerned is being made.

    Dagster's own ``since_last_handled`` forgets a change that comes while the asset is being made, because the end of
    that run counts as the answer to it. Here only a request that comes after the change does.
    """
    return (
        (Condition.newly_missing() | change).since(Condition.newly_requested() & ~change).with_label("not_answered_yet")
        & ~Condition.any_deps_missing()
        & ~Condition.any_deps_in_progress()
        & ~Condition.in_progress()
    )


# The files of a drop are made one after the other, and belong together.
_DROP_IN_PROGRESS = (
    Condition.asset_matches("train_csv", Condition.in_progress())
    | Condition.asset_matches("features_csv", Condition.in_progress())
    | Condition.asset_matches("stores_csv", Condition.in_progress())
).with_label("a drop is being taken in")

NEW_CONTENT = (
    _when(
        Condition.any_deps_match(
            (Condition.data_version_changed() & _NOT_BY_THE_SAME_RUN) | Condition.will_be_requested()
        ).with_label("an upstream has other content")
    )
    & ~_DROP_IN_PROGRESS
)
ANY_UPDATE = _when(Condition.any_deps_updated())
CHECKED_NEW_CONTENT = (
    _when(
        Condition.any_deps_match(Condition.data_version_changed() & _NOT_BY_THE_SAME_RUN).with_label(
            "an upstream has other content"
        )
    )
    & Condition.all_deps_blocking_checks_passed()
)
CANDIDATE_MADE = _when(Condition.any_deps_updated().allow(dg.AssetSelection.assets("candidate_model")))

CONDITIONS: dict[str, dg.AutomationCondition[Any]] = {
    "sales_features": NEW_CONTENT,
    "store_features": NEW_CONTENT,
    "sales_windows": NEW_CONTENT,
    "feast_registry": NEW_CONTENT,
    "sales_history_features": NEW_CONTENT,
    "store_external_features": NEW_CONTENT,
    "sales_window_features": NEW_CONTENT,
    "feature_transformations": NEW_CONTENT,
    "temporal_transformations": NEW_CONTENT,
    # A view's data version is that of its definition: new rows in its table leave it as it is.
    "training_frame": ANY_UPDATE,
    "candidate_model": CHECKED_NEW_CONTENT,
    "champion_model": CANDIDATE_MADE,
    "online_features": ANY_UPDATE,
    "weekly_forecasts": ANY_UPDATE,
    "horizon_forecasts": ANY_UPDATE,
    "forecast_accuracy": ANY_UPDATE,
}

automation_sensor = dg.AutomationConditionSensorDefinition(
    "automation",
    target=dg.AssetSelection.all(),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=10,
    description="Asks every asset's automation condition, and starts one run for all that are due together.",
)


def automated(assets: Sequence[dg.AssetsDefinition]) -> Sequence[dg.AssetsDefinition]:
    """The same assets, with the conditions of ``CONDITIONS``."""
    return dg.map_asset_specs(
        lambda spec: spec.replace_attributes(automation_condition=CONDITIONS.get(spec.key.to_user_string())),
        assets,
    )
