"""The training spec: one JSON document that describes a training. Free of torch, so that the launcher can write it."""

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from trainer.errors import SpecError

DATA_SOURCES = ("direct",)
MODEL_TYPES = ("mlp", "tft")
SEQUENCE_MODELS = ("tft",)
BACKENDS = ("auto", "gloo", "nccl")

DEFAULT_NUMERIC_FEATURES = (
    "sales_lag_1",
    "sales_lag_2",
    "sales_lag_3",
    "sales_lag_4",
    "sales_rolling_mean_12",
    "sales_rolling_std_4",
    "sales_rolling_mean_4_lag_52",
    "week_of_year",
    "is_holiday",
)
DEFAULT_CATEGORICAL_FEATURES = ("store", "dept")


@dataclass(kw_only=True, slots=True, frozen=True)
class TrainSpec:
    """What to train, on what, and where to put it.

    Attributes:
        frame_path: directory of the published training frame.
        model_output_dir: directory the bundle is published as.
        data_source: "direct" reads the whole frame into memory.
        model_type: "mlp", or "tft": a Temporal Fusion Transformer, which also reads the sales of the year before week
            by week.
        label: column of dollars to forecast; never an input.
        timestamp: column of the row's week.
        holiday: boolean column; its weeks weigh more in the loss and in WMAE.
        group: column whose rows share a season and, for cold starts, a level.
        series: columns that tell one series from another.
        numeric_features: columns the model reads as numbers. The default leaves out what did not earn its place in
            forecasts of later weeks; any other column may be added.
        categorical_features: columns the model embeds; a value unseen in training is allowed later.
        hidden_dims: units of each hidden layer of one member of the MLP.
        members: of the MLP, networks trained side by side, each on its own start; the forecast is their mean.
        embedding_dim: size of each category's embedding in one member of the MLP.
        tft_hidden_size: units of every layer of the TFT.
        tft_num_heads: attention heads of the TFT; a divisor of its hidden size.
        tft_lstm_layers: layers of the TFT's LSTM encoder and decoder.
        dropout: share of hidden units dropped; with 0 a run does not depend on the number of processes.
        num_epochs: passes over the training rows; the learning rate decays to 0 over all of them.
        batch_size: rows per step over all processes together; smaller frames take smaller batches.
        learning_rate: peak of AdamW's learning rate.
        weight_decay: AdamW's decoupled weight decay.
        grad_clip_norm: largest norm of the gradient.
        holiday_loss_weight: weight of a holiday row in the loss.
        early_stopping_patience: epochs without a better validation WMAE before training stops.
        val_size: number of last weeks that are validated.
        gap_weeks: weeks before those that are neither trained nor validated.
        backend: "auto" takes nccl if there is a GPU and else gloo.
        timeout_sec: seconds a process waits for the others.
        seed: of every random stream.
    """

    frame_path: str
    model_output_dir: str
    data_source: str = "direct"
    model_type: str = "mlp"
    label: str = "weekly_sales"
    timestamp: str = "event_timestamp"
    holiday: str = "is_holiday"
    group: str = "dept"
    series: tuple[str, ...] = ("store", "dept")
    numeric_features: tuple[str, ...] = DEFAULT_NUMERIC_FEATURES
    categorical_features: tuple[str, ...] = DEFAULT_CATEGORICAL_FEATURES
    hidden_dims: tuple[int, ...] = (64, 32)
    members: int = 8
    embedding_dim: int = 16
    tft_hidden_size: int = 16
    tft_num_heads: int = 4
    tft_lstm_layers: int = 1
    dropout: float = 0.0
    num_epochs: int = 5
    batch_size: int = 2048
    learning_rate: float = 4e-3
    weight_decay: float = 1e-4
    grad_clip_norm: float = 1.0
    holiday_loss_weight: float = 2.0
    early_stopping_patience: int = 3
    val_size: int = 18
    gap_weeks: int = 4
    backend: str = "auto"
    timeout_sec: float = 600.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, kind in typing.get_type_hints(type(self)).items():
            object.__setattr__(self, name, _typed(name, kind, getattr(self, name)))
        self._check("data_source", self.data_source in DATA_SOURCES, f"one of {', '.join(DATA_SOURCES)}")
        self._check("model_type", self.model_type in MODEL_TYPES, f"one of {', '.join(MODEL_TYPES)}")
        self._check("backend", self.backend in BACKENDS, f"one of {', '.join(BACKENDS)}")
        for name in (
            "frame_path",
            "model_output_dir",
            "label",
            "timestamp",
            "holiday",
            "group",
            "series",
            "numeric_features",
        ):
            self._check(name, len(getattr(self, name)) > 0, "not empty")
        for name in ("numeric_features", "categorical_features"):
            columns = getattr(self, name)
            self._check(name, len(set(columns)) == len(columns), "columns named once")
            self._check(name, self.label not in columns, f"columns without the label {self.label!r}")
        self._check("hidden_dims", bool(self.hidden_dims) and min(self.hidden_dims) >= 1, "numbers of units, 1 or more")
        for name in (
            "members",
            "embedding_dim",
            "tft_hidden_size",
            "tft_lstm_layers",
            "num_epochs",
            "batch_size",
            "early_stopping_patience",
            "val_size",
        ):
            self._check(name, getattr(self, name) >= 1, "1 or more")
        heads = self.tft_num_heads
        self._check("tft_num_heads", heads >= 1 and self.tft_hidden_size % heads == 0, "a divisor of tft_hidden_size")
        for name in ("gap_weeks", "seed", "weight_decay"):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        for name in ("learning_rate", "grad_clip_norm", "holiday_loss_weight", "timeout_sec"):
            self._check(name, getattr(self, name) > 0, "more than 0")
        self._check("dropout", 0 <= self.dropout < 1, "from 0 to below 1")

    def _check(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise SpecError(f"spec field {name} is {self.to_dict()[name]!r}; allowed: {allowed}")

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    def to_json(self) -> str:
        """The JSON document."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a JSON document.

        Raises:
            SpecError: not a JSON object, an unknown or missing field, or a value that is not allowed.
        """
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            raise SpecError(f"spec is not JSON: {error}") from error
        if not isinstance(fields, dict):
            raise SpecError(f"spec is a JSON {type(fields).__name__}; allowed: an object")
        known = {field.name: field for field in dataclasses.fields(cls)}
        if unknown := sorted(fields.keys() - known.keys()):
            raise SpecError(f"spec has unknown fields: {', '.join(unknown)}; allowed: {', '.join(known)}")
        required = (name for name, field in known.items() if field.default is dataclasses.MISSING)
        if missing := [name for name in required if name not in fields]:
            raise SpecError(f"spec lacks fields: {', '.join(missing)}")
        return cls(**fields)

    def save(self, path: Path | str) -> None:
        """Write the JSON document to `path`."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read the JSON document at `path`.

        Raises:
            SpecError: as `from_json`, or no file can be read there.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise SpecError(f"spec file {path} cannot be read: {error.strerror}") from error


def _typed(name: str, kind: Any, value: Any) -> Any:
    """`value` as a field of type `kind`: a list becomes a tuple and an int a float, anything else is refused."""
    if isinstance(kind, types.GenericAlias):
        item = typing.get_args(kind)[0]
        if isinstance(value, list | tuple) and all(_is_a(item, element) for element in value):
            return tuple(value)
        raise SpecError(f"spec field {name} is {value!r}; allowed: a list of {item.__name__}")
    if not _is_a(kind, value):
        raise SpecError(f"spec field {name} is {value!r}; allowed: {kind.__name__}")
    return kind(value)


def _is_a(kind: type, value: Any) -> bool:
    accepted: type | types.UnionType = int | float if kind is float else kind
    finite = not isinstance(value, float) or math.isfinite(value)
    return isinstance(value, accepted) and not isinstance(value, bool) and finite
