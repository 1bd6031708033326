"""Which columns each table's columns come from, for the UI: derived from the feature list."""

from collections.abc import Iterable, Mapping

import dagster as dg

from feature_repo.features import ENTITY_KEYS, LABEL, TIMESTAMP, VIEWS, Feature, View

Sources = Mapping[str, Iterable[str]]
"""Columns, and the columns that each comes from, as ``asset.column``."""

_VIEW_OF = {feature.name: view for view in VIEWS for feature in view.features}


def column_lineage(sources: Sources) -> dg.TableColumnLineage:
    """The sources as Dagster's metadata ``dagster/column_lineage``."""
    return dg.TableColumnLineage(
        {column: [dg.TableColumnDep(*each.split(".")) for each in dict.fromkeys(of)] for column, of in sources.items()}
    )


def columns_of(asset: str, **columns: str) -> dict[str, Iterable[str]]:
    """Columns that are columns of one other asset, under another name."""
    return {name: [f"{asset}.{column}"] for name, column in columns.items()}


def computed(features: Iterable[Feature]) -> Sources:
    """Stored features, computed from the raw files."""
    return {feature.name: feature.computed_from for feature in features}


def view_sources(view: View) -> Sources:
    """A feature view: the columns of its table or, on demand, the features that each is computed from."""
    features = {feature.name: _view_column(view, feature) for feature in view.features}
    return {**_same(view.sources[0], *view.keys, TIMESTAMP), **features}


def joined_sources(features: Iterable[Feature]) -> Sources:
    """Feature views joined by series and week: each feature as its view has it."""
    joined = {feature.name: [f"{_VIEW_OF[feature.name].name}.{feature.name}"] for feature in features}
    return {**_same(_VIEW_OF[LABEL].name, *ENTITY_KEYS, TIMESTAMP), **joined}


def _view_column(view: View, feature: Feature) -> list[str]:
    if view.on_demand:
        return [f"{_VIEW_OF[name].name}.{name}" for name in feature.computed_from]
    if view.name == "sales_window_features":  # a slice of the series' one array
        return ["sales_windows.sales"]
    return [f"{view.sources[0]}.{feature.name}"]


def _same(asset: str, *columns: str) -> Sources:
    return {name: [f"{asset}.{name}"] for name in columns}
