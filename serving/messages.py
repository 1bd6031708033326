"""What the service is asked and what it answers, as JSON."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from serving.settings import MAX_ROWS

Key = Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)]


class Series(BaseModel):
    """One series to forecast."""

    model_config = ConfigDict(extra="forbid")

    store: Key = Field(description="The store's number", examples=[1])
    dept: Key = Field(description="The department's number", examples=[1])


def _one_or_many(body: Any) -> str:
    return "many" if isinstance(body, list) else "one"


SeriesOrList = Annotated[
    Annotated[Series, Tag("one")] | Annotated[list[Series], Field(min_length=1, max_length=MAX_ROWS), Tag("many")],
    Discriminator(_one_or_many),
]


class Quantiles(BaseModel):
    """Dollars that 10, 50 and 90 % of the sales are expected below."""

    p10: float
    p50: float
    p90: float


class Influence(BaseModel):
    """What one input moved the forecast by."""

    feature: str
    value: Any = Field(description="What it was; null where it is missing, and for a whole year of sales")
    dollars: float = Field(description="The forecast less the forecast without this input")


class Explanation(BaseModel):
    """The inputs that moved the forecast most, the strongest first."""

    usual_level: float | None = Field(description="Mean sales in dollars of the 12 weeks before")
    influences: list[Influence]


class Forecast(BaseModel):
    """The forecast of one series; all values but its keys and ``status`` are null where there is none."""

    store: int
    dept: int
    status: Literal["ok", "unknown series", "features are being renewed", "stale features"]
    forecast: float | None = Field(description="Expected sales of the week in dollars")
    quantiles: Quantiles | None
    week: str | None = Field(description="The week that is forecast", examples=["2012-11-02"])
    feature_timestamp: str | None = Field(description="The time that the oldest of the features is of")
    model_version: str | None = Field(description="The hash of the model's bundle")
    warning: str | None = Field(default=None, description="What to know before relying on it")
    explanation: Explanation | None = Field(default=None, description="With ?explain=true")


class Problem(BaseModel):
    """Why there is no answer."""

    detail: str
