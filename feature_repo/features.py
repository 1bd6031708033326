"""The one list of features. Tables, Feast views, the frame's schema and the trainer's inputs derive from it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

FeatureType = Literal["float64", "int32", "int64", "bool", "string", "float64[]"]

ENTITY_KEYS = ("store", "dept")
TIMESTAMP = "event_timestamp"
LABEL = "weekly_sales"
WINDOW_WEEKS = 52
TAGS = {"domain": "demand", "cadence": "weekly"}
TTL_DAYS = 730
"""How old a feature may be that is used: what is known of a store holds until its next row, for so long."""

TRAINING_SERVICE = "demand_forecasting_service"
INFERENCE_SERVICE = "demand_forecasting_inference"
SEQUENCE_SERVICE = "demand_forecasting_sequence"


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature, stored or on demand.

    Attributes:
        computed_from: the columns that its value depends on, of whichever weeks: of the raw assets, as
            ``train_csv.Date``, for a stored feature; other features for one on demand.
        nullable: its value may be missing.
    """

    name: str
    type: FeatureType
    description: str
    computed_from: tuple[str, ...]
    nullable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A feature view: of a table or, where it is on demand, of other views.

    Attributes:
        keys: the entities whose values tell one row from another.
        sources: the tables that it reads, or the views that it is computed from.
    """

    name: str
    features: tuple[Feature, ...]
    keys: tuple[str, ...]
    sources: tuple[str, ...]
    description: str
    on_demand: bool = False


_SALES = ("train_csv.Weekly_Sales",)
_WEEK = ("train_csv.Date",)
_HOLIDAYS = ("train_csv.IsHoliday", "features_csv.IsHoliday")
_MARKDOWNS = tuple(f"features_csv.MarkDown{n}" for n in range(1, 6))


def _lag(weeks: int) -> Feature:
    return Feature(f"sales_lag_{weeks}", "float64", f"Sales in dollars {weeks} calendar week(s) before", _SALES)


# Everything derived from sales uses weeks strictly before the row's own, by calendar week, over the rows present.
SALES_HISTORY: tuple[Feature, ...] = (
    Feature(
        LABEL, "float64", "Sales of the week in dollars: the label, never an input; empty for the coming week", _SALES
    ),
    Feature("is_holiday", "bool", "The week holds a flagged holiday", _HOLIDAYS, nullable=False),
    Feature("week_of_year", "int32", "ISO week", _WEEK, nullable=False),
    Feature("month", "int32", "Calendar month", _WEEK, nullable=False),
    Feature("quarter", "int32", "Calendar quarter", _WEEK, nullable=False),
    *(_lag(weeks) for weeks in (1, 2, 3, 4, 51, 52, 53)),
    Feature("sales_rolling_mean_4", "float64", "Mean sales of the 4 weeks before", _SALES),
    Feature("sales_rolling_mean_12", "float64", "Mean sales of the 12 weeks before", _SALES),
    Feature("sales_rolling_std_4", "float64", "Sample standard deviation of sales of the 4 weeks before", _SALES),
    Feature(
        "sales_rolling_mean_4_lag_52", "float64", "Mean sales of the 4 weeks before the same week a year ago", _SALES
    ),
    Feature("weeks_since_last_sale", "int32", "Weeks since the series last had a row", _WEEK),
)

STORE_EXTERNAL: tuple[Feature, ...] = (
    Feature("temperature", "float64", "Air temperature in the store's region, °F", ("features_csv.Temperature",)),
    Feature(
        "fuel_price", "float64", "Fuel price in the store's region, dollars per gallon", ("features_csv.Fuel_Price",)
    ),
    Feature("cpi", "float64", "Consumer price index", ("features_csv.CPI",)),
    Feature("unemployment", "float64", "Unemployment rate, percent", ("features_csv.Unemployment",)),
    *(
        Feature(f"markdown{n}", "float64", f"Promotional markdown {n}, dollars", (column,))
        for n, column in enumerate(_MARKDOWNS, start=1)
    ),
    Feature("total_markdown", "float64", "Sum of the markdowns, missing ones as zero", _MARKDOWNS, nullable=False),
    Feature("has_markdown", "bool", "At least one markdown is given", _MARKDOWNS, nullable=False),
    Feature("store_type", "string", "Store format: A, B or C", ("stores_csv.Type",), nullable=False),
    Feature("store_size", "int64", "Store size, square feet", ("stores_csv.Size",), nullable=False),
)

SALES_WINDOW: tuple[Feature, ...] = (
    Feature(
        f"sales_window_{WINDOW_WEEKS}",
        "float64[]",
        f"Sales in dollars of the {WINDOW_WEEKS} calendar weeks before, the oldest first; NaN for a week without a row",
        _SALES,
        nullable=False,
    ),
)

# Computed by feature_repo.transformations, which says the formulas' guards: none of these is ever missing.
FEATURE_TRANSFORMATIONS: tuple[Feature, ...] = (
    Feature(
        "temperature_normalized", "float64", "Temperature from 5 to 100 °F as 0 to 1", ("temperature",), nullable=False
    ),
    Feature(
        "holiday_markdown_interaction",
        "float64",
        "Total markdown in a holiday week, else 0",
        ("is_holiday", "total_markdown"),
        nullable=False,
    ),
    Feature(
        "markdown_momentum",
        "float64",
        "Total markdown per dollar sold last week",
        ("total_markdown", "sales_lag_1"),
        nullable=False,
    ),
    Feature("seasonal_sine", "float64", "Sine of the ISO week, period 52", ("week_of_year",), nullable=False),
    Feature("seasonal_cosine", "float64", "Cosine of the ISO week, period 52", ("week_of_year",), nullable=False),
)
TEMPORAL_TRANSFORMATIONS: tuple[Feature, ...] = (
    Feature(
        "sales_velocity",
        "float64",
        "Relative change of sales from two weeks ago to last week",
        ("sales_lag_1", "sales_lag_2"),
        nullable=False,
    ),
    Feature(
        "sales_acceleration",
        "float64",
        "Velocity less the change from four to two weeks ago",
        ("sales_lag_1", "sales_lag_2", "sales_lag_4"),
        nullable=False,
    ),
    Feature(
        "demand_stability_score",
        "float64",
        "1 for 4 even weeks before, 0 for erratic ones",
        ("sales_rolling_mean_4", "sales_rolling_std_4"),
        nullable=False,
    ),
)

VIEWS: tuple[View, ...] = (
    View(
        name="sales_history_features",
        features=SALES_HISTORY,
        keys=ENTITY_KEYS,
        sources=("sales_features",),
        description="Sales of earlier weeks; the week's own sales are the label",
    ),
    View(
        name="store_external_features",
        features=STORE_EXTERNAL,
        keys=("store",),
        sources=("store_features",),
        description="Weather, prices, promotions and the store's own attributes",
    ),
    View(
        name="sales_window_features",
        features=SALES_WINDOW,
        keys=ENTITY_KEYS,
        sources=("sales_features", "sales_windows"),
        description="The sales of the year before as one array, for sequence models",
    ),
    View(
        name="feature_transformations",
        features=FEATURE_TRANSFORMATIONS,
        keys=ENTITY_KEYS,
        sources=("sales_history_features", "store_external_features"),
        description="Promotion, weather and season, combined on demand",
        on_demand=True,
    ),
    View(
        name="temporal_transformations",
        features=TEMPORAL_TRANSFORMATIONS,
        keys=ENTITY_KEYS,
        sources=("sales_history_features",),
        description="How sales move and how even they are, on demand",
        on_demand=True,
    ),
)

SERIES_VIEWS = tuple(view.name for view in VIEWS if view.keys == ENTITY_KEYS)
"""The views with a row per series and week; those of stores are the others."""
ON_DEMAND = FEATURE_TRANSFORMATIONS + TEMPORAL_TRANSFORMATIONS
FRAME_FEATURES = SALES_HISTORY + STORE_EXTERNAL + ON_DEMAND
"""The columns of the training frame after its keys, in this order."""
FRAME_VIEWS = [view.name for view in VIEWS if set(view.features) <= set(FRAME_FEATURES)]


def names(features: Iterable[Feature]) -> list[str]:
    """The names in list order."""
    return [feature.name for feature in features]
