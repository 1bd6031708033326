"""The one list of features. Tables, Feast views, the frame's schema and the trainer's inputs derive from it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

FeatureType = Literal["float64", "int32", "int64", "bool", "string"]

ENTITY_KEYS = ("store", "dept")
TIMESTAMP = "event_timestamp"
LABEL = "weekly_sales"

TRAINING_SERVICE = "demand_forecasting_service"
INFERENCE_SERVICE = "demand_forecasting_inference"


@dataclass(frozen=True, slots=True)
class Feature:
    """A stored feature. The value of a ``nullable`` one may be missing."""

    name: str
    type: FeatureType
    description: str
    nullable: bool = True


def _lag(weeks: int) -> Feature:
    return Feature(f"sales_lag_{weeks}", "float64", f"Sales in dollars {weeks} calendar week(s) before")


# Everything derived from sales uses weeks strictly before the row's own, by calendar week, over the rows present.
SALES_HISTORY: tuple[Feature, ...] = (
    Feature(LABEL, "float64", "Sales of the week in dollars: the label, never an input; empty for the coming week"),
    Feature("is_holiday", "bool", "The week holds a flagged holiday", nullable=False),
    Feature("week_of_year", "int32", "ISO week", nullable=False),
    Feature("month", "int32", "Calendar month", nullable=False),
    Feature("quarter", "int32", "Calendar quarter", nullable=False),
    *(_lag(weeks) for weeks in (1, 2, 3, 4, 51, 52, 53)),
    Feature("sales_rolling_mean_4", "float64", "Mean sales of the 4 weeks before"),
    Feature("sales_rolling_mean_12", "float64", "Mean sales of the 12 weeks before"),
    Feature("sales_rolling_std_4", "float64", "Sample standard deviation of sales of the 4 weeks before"),
    Feature("sales_rolling_mean_4_lag_52", "float64", "Mean sales of the 4 weeks before the same week a year ago"),
    Feature("weeks_since_last_sale", "int32", "Weeks since the series last had a row"),
)

STORE_EXTERNAL: tuple[Feature, ...] = (
    Feature("temperature", "float64", "Air temperature in the store's region, °F"),
    Feature("fuel_price", "float64", "Fuel price in the store's region, dollars per gallon"),
    Feature("cpi", "float64", "Consumer price index"),
    Feature("unemployment", "float64", "Unemployment rate, percent"),
    *(Feature(f"markdown{n}", "float64", f"Promotional markdown {n}, dollars") for n in range(1, 6)),
    Feature("total_markdown", "float64", "Sum of the markdowns, missing ones as zero", nullable=False),
    Feature("has_markdown", "bool", "At least one markdown is given", nullable=False),
    Feature("store_type", "string", "Store format: A, B or C", nullable=False),
    Feature("store_size", "int64", "Store size, square feet", nullable=False),
)

CATEGORICAL = ("store", "dept", "store_type")


def names(features: Iterable[Feature]) -> list[str]:
    """The names in list order."""
    return [feature.name for feature in features]


def numeric_inputs() -> list[str]:
    """The model's numeric inputs: every feature but the label and the categories."""
    return [name for name in names(SALES_HISTORY + STORE_EXTERNAL) if name not in (LABEL, *CATEGORICAL)]
