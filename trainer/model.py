"""The models by their name in the spec.

Every model is a module whose `forward(numeric_BF, codes_BC, history_BTH)` gives prediction_MBQ: the quantiles of the
correction to each row's start, in signed-log dollars, by each of M members.
"""

from dataclasses import asdict
from typing import Any

from torch import nn

from trainer.history import HISTORY_WIDTH
from trainer.inputs import Encoder
from trainer.mlp import EnsembleMLP, MLPConfig
from trainer.spec import TrainSpec
from trainer.tft import TemporalFusionTransformer, TFTConfig

ModelConfig = MLPConfig | TFTConfig


def model_config(spec: TrainSpec, encoder: Encoder) -> ModelConfig:
    """The model that `spec` asks for, as wide as the fitted encoder's inputs."""
    category_sizes = tuple(len(values) + 1 for values in encoder.vocabularies)
    if spec.model_type == "tft":
        return TFTConfig(
            numeric_width=encoder.width,
            category_sizes=category_sizes,
            history_width=HISTORY_WIDTH,
            hidden_size=spec.tft_hidden_size,
            num_heads=spec.tft_num_heads,
            lstm_layers=spec.tft_lstm_layers,
            dropout=spec.dropout,
        )
    return MLPConfig(
        numeric_width=encoder.width,
        category_sizes=category_sizes,
        embedding_dim=spec.embedding_dim,
        hidden_dims=spec.hidden_dims,
        members=spec.members,
        dropout=spec.dropout,
    )


def build_model(config: ModelConfig) -> nn.Module:
    """A new model, its weights drawn from torch's random stream."""
    return TemporalFusionTransformer(config) if isinstance(config, TFTConfig) else EnsembleMLP(config)


def config_to_dict(config: ModelConfig) -> dict[str, Any]:
    """The config as JSON values."""
    fields = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}
    return {"model_type": config.model_type, **fields}


def config_from_dict(fields: dict[str, Any]) -> ModelConfig:
    """The inverse of `config_to_dict`."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    return TFTConfig(**values) if values.pop("model_type") == TFTConfig.model_type else MLPConfig(**values)
