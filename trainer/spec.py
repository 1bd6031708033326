"""The training spec: one JSON document that describes a training. Free of torch, so that the launcher can write it."""

import dataclasses
import hashlib
import json
import math
import types
import typing
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Self

from trainer.errors import SpecError

FEAST_SOURCES = ("postgres_ray", "feast_file")
DATA_SOURCES = ("direct", *FEAST_SOURCES)
LOADINGS = ("auto", "memory", "stream")
MODEL_TYPES = ("mlp", "tft")
SEQUENCE_MODELS = ("tft",)
BACKENDS = ("auto", "gloo", "nccl")
AMP_DTYPES = ("auto", "bfloat16", "float16")

# What a training may be started again with, for it does not change what is learned, or it is what a recovery changes.
MAY_CHANGE_ON_RESUME = (
    *("frame_path", "model_output_dir", "loading", "retrieval_timeout_sec", "timeout_sec", "checkpoint_every"),
    *("batch_size", "accumulation_steps", "learning_rate", "gradient_checkpointing", "backend", "use_amp", "amp_dtype"),
)

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
        frame_path: directory of the published training frame; a Feast source writes it there.
        model_output_dir: directory the bundle is published as; checkpoints lie beside it until then.
        data_source: "direct" reads the published frame. Through Feast, the first process retrieves and the others wait:
            "postgres_ray" from PostgreSQL, fanned out over Ray; "feast_file" from a file offline store.
        feast_repo_path: directory of the Feast repository, for a Feast source.
        sample_size: rows to train on at most, evenly spaced over the frame; 0 takes all.
        chunk_size: rows per chunk that a Feast source writes.
        loading: "memory" holds the frame as tensors, "stream" reads it chunk by chunk in each epoch, "auto" streams
            a frame that would take more than half of the free memory.
        retrieval_timeout_sec: seconds the other processes wait for a Feast source.
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
        accumulation_steps: parts a batch is computed in, one after the other; saves memory and changes nothing else.
        use_amp: compute in 16 bits where that is safe.
        amp_dtype: "auto" takes bfloat16 unless the GPU lacks it; float16 needs, and gets, loss scaling.
        gradient_checkpointing: compute a block's activations again in the backward pass instead of keeping them.
        learning_rate: peak of AdamW's learning rate.
        weight_decay: AdamW's decoupled weight decay.
        grad_clip_norm: largest norm of the gradient.
        holiday_loss_weight: weight of a holiday row in the loss.
        early_stopping_patience: epochs without a better validation WMAE before training stops.
        val_size: number of last weeks that are validated.
        cutoff_date: last day that is trained on, as YYYY-MM-DD; all weeks after the gap are then validated. Empty
            leaves the split to val_size.
        gap_weeks: weeks before those that are neither trained nor validated.
        backend: how gradients are averaged; "auto" takes nccl if there is a GPU, and gloo if not or if nccl fails.
        timeout_sec: seconds a process waits for the others.
        checkpoint_every: steps between checkpoints, besides the one at the end of each epoch.
        seed: of every random stream.
    """

    frame_path: str
    model_output_dir: str
    data_source: str = "direct"
    feast_repo_path: str = ""
    sample_size: int = 0
    chunk_size: int = 100_000
    loading: str = "auto"
    retrieval_timeout_sec: float = 3600.0
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
    num_epochs: int = 3
    batch_size: int = 2048
    accumulation_steps: int = 1
    use_amp: bool = False
    amp_dtype: str = "auto"
    gradient_checkpointing: bool = False
    learning_rate: float = 4e-3
    weight_decay: float = 1e-4
    grad_clip_norm: float = 1.0
    holiday_loss_weight: float = 2.0
    early_stopping_patience: int = 3
    val_size: int = 18
    cutoff_date: str = ""
    gap_weeks: int = 4
    backend: str = "auto"
    timeout_sec: float = 600.0
    checkpoint_every: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        for name, kind in typing.get_type_hints(type(self)).items():
            object.__setattr__(self, name, _typed(name, kind, getattr(self, name)))
        for name, choices in _CHOICES.items():
            self._check(name, getattr(self, name) in choices, f"one of {', '.join(choices)}")
        wants_feast = self.data_source in FEAST_SOURCES
        self._check("feast_repo_path", bool(self.feast_repo_path) or not wants_feast, "a directory, for a Feast source")
        self._check("cutoff_date", not self.cutoff_date or _is_date(self.cutoff_date), "a date as YYYY-MM-DD, or empty")
        texts = (
            "frame_path",
            "model_output_dir",
            "label",
            "timestamp",
            "holiday",
            "group",
            "series",
            "numeric_features",
        )
        for name in texts:
            self._check(name, len(getattr(self, name)) > 0, "not empty")
        for name in ("numeric_features", "categorical_features"):
            columns = getattr(self, name)
            self._check(name, len(set(columns)) == len(columns), "columns named once")
            self._check(name, self.label not in columns, f"columns without the label {self.label!r}")
        # The bundle is renamed to it, and checkpoints lie beside it under its name.
        named = Path(self.model_output_dir).name not in {"", ".."}
        self._check("model_output_dir", named, "a directory with a name of its own")
        enough = bool(self.categorical_features) or self.model_type != "tft"
        self._check("categorical_features", enough, "one column or more, for model_type tft")
        self._check("hidden_dims", bool(self.hidden_dims) and min(self.hidden_dims) >= 1, "numbers of units, 1 or more")
        for name in _AT_LEAST_ONE:
            self._check(name, getattr(self, name) >= 1, "1 or more")
        heads = self.tft_num_heads
        self._check("tft_num_heads", heads >= 1 and self.tft_hidden_size % heads == 0, "a divisor of tft_hidden_size")
        for name in ("gap_weeks", "seed", "weight_decay", "sample_size"):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        for name in ("learning_rate", "grad_clip_norm", "holiday_loss_weight", "timeout_sec", "retrieval_timeout_sec"):
            self._check(name, getattr(self, name) > 0, "more than 0")
        self._check("dropout", 0 <= self.dropout < 1, "from 0 to below 1")

    def _check(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise SpecError(f"spec field {name} is {self.to_dict()[name]!r}; allowed: {allowed}")

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    def identity(self) -> str:
        """A hash of what must stay the same for a checkpoint to be gone on with."""
        fixed = {name: value for name, value in self.to_dict().items() if name not in MAY_CHANGE_ON_RESUME}
        return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()

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


_AT_LEAST_ONE = (
    *("members", "embedding_dim", "tft_hidden_size", "tft_lstm_layers", "num_epochs", "batch_size", "val_size"),
    *("early_stopping_patience", "chunk_size", "accumulation_steps", "checkpoint_every"),
)
_CHOICES = {
    "data_source": DATA_SOURCES,
    "loading": LOADINGS,
    "model_type": MODEL_TYPES,
    "backend": BACKENDS,
    "amp_dtype": AMP_DTYPES,
}


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


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
    if kind is bool:
        return isinstance(value, bool)
    accepted: type | types.UnionType = int | float if kind is float else kind
    finite = not isinstance(value, float) or math.isfinite(value)
    return isinstance(value, accepted) and not isinstance(value, bool) and finite
