"""The Temporal Fusion Transformer of Lim et al. 2021, "Temporal Fusion Transformers for interpretable multi-horizon
time series forecasting", for one week ahead.

The past is the year before, week by week; the one known step of the future is the coming week; the categories are the
static covariates. Blocks and contexts carry the paper's names; its equation numbers stand beside them.

Shapes: B rows, T weeks of the past, H numbers of each, F numbers of the coming week, C categories, D hidden size,
V variables, N rows or rows x weeks, A heads, K size of a head, Q quantiles.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.layers import ParallelLinear
from trainer.quantiles import QUANTILES, ordered

_EMBEDDING_STD = 0.1
_OUTPUT_SCALE = 0.01


@dataclass(kw_only=True, slots=True, frozen=True)
class TFTConfig:
    """Everything needed to rebuild a `TemporalFusionTransformer`.

    category_sizes: codes of each category, the unknown included.
    history_width: H; the second of these numbers is 1 where the week is missing.
    """

    model_type: ClassVar[str] = "tft"

    numeric_width: int
    category_sizes: tuple[int, ...]
    history_width: int
    hidden_size: int
    num_heads: int
    lstm_layers: int
    dropout: float


class TemporalFusionTransformer(nn.Module):
    """Predicts the quantiles of the correction to a row's starting point, in signed-log dollars."""

    def __init__(self, config: TFTConfig) -> None:
        super().__init__()
        size, dropout = config.hidden_size, config.dropout
        self.lstm_layers = config.lstm_layers
        self.embeddings = nn.ModuleList(nn.Embedding(codes, size, padding_idx=0) for codes in config.category_sizes)
        for parameter in self.embeddings.parameters():
            parameter.detach().mul_(_EMBEDDING_STD)
        self.static_selection = VariableSelectionNetwork(len(config.category_sizes), size, dropout, with_context=False)
        # c_s selects variables, c_h and c_c start the LSTM, c_e enriches.
        self.static_encoders = nn.ModuleDict(
            {name: GatedResidualNetwork(size, size, size, dropout) for name in ("c_s", "c_h", "c_c", "c_e")}
        )
        self.past_projection = VariableProjection(config.history_width, size)
        self.past_selection = VariableSelectionNetwork(config.history_width, size, dropout, with_context=True)
        self.future_projection = VariableProjection(config.numeric_width, size)
        self.future_selection = VariableSelectionNetwork(config.numeric_width, size, dropout, with_context=True)
        self.encoder = nn.LSTM(size, size, config.lstm_layers, batch_first=True)
        self.decoder = nn.LSTM(size, size, config.lstm_layers, batch_first=True)
        self.lstm_gate = GateAddNorm(size, size, dropout)
        self.static_enrichment = GatedResidualNetwork(size, size, size, dropout, with_context=True)
        self.attention = InterpretableMultiHeadAttention(size, config.num_heads)
        self.attention_gate = GateAddNorm(size, size, dropout)
        self.feed_forward = GatedResidualNetwork(size, size, size, dropout)
        self.output_gate = GateAddNorm(size, size, dropout)
        self.median = nn.Linear(size, 1)
        # Training starts at the starting point itself: a correction of about 0.
        self.median.weight.detach().mul_(_OUTPUT_SCALE)
        self.median.bias.detach().zero_()
        self.spread = nn.Linear(size, len(QUANTILES) - 1)

    def forward(self, numeric_BF: Tensor, codes_BC: Tensor, history_BTH: Tensor) -> Tensor:
        """The quantiles of the correction, prediction_MBQ of the one member that there is."""
        embedded = [embedding(codes_B) for embedding, codes_B in zip(self.embeddings, codes_BC.unbind(1), strict=True)]
        static_BD = self.static_selection(torch.stack(embedded))
        c_BD = {name: encoder(static_BD) for name, encoder in self.static_encoders.items()}
        rows, weeks, _ = history_BTH.shape
        context_BTD = c_BD["c_s"][:, None].expand(-1, weeks, -1)
        past_BTD = self.past_selection(self.past_projection(history_BTH.flatten(0, 1)), context_BTD.flatten(0, 1))
        past_BTD = past_BTD.unflatten(0, (rows, weeks))
        future_B1D = self.future_selection(self.future_projection(numeric_BF), c_BD["c_s"])[:, None]
        state = tuple(c_BD[name].expand(self.lstm_layers, -1, -1).contiguous() for name in ("c_h", "c_c"))
        # Under autocast, cuDNN's LSTM would compute in float16 even where bfloat16 is asked for; and oneDNN has none in
        # 16 bits for CPUs without instructions for them.
        with torch.autocast(past_BTD.device.type, enabled=False):
            encoded_BTD, state = self.encoder(past_BTD.float(), tuple(each.float() for each in state))
            decoded_B1D, _ = self.decoder(future_B1D.float(), state)
        selected_BLD = torch.cat([past_BTD, future_B1D], dim=1)
        temporal_BLD = self.lstm_gate(torch.cat([encoded_BTD, decoded_B1D], dim=1), selected_BLD)  # eq. 17
        enriched_BLD = self.static_enrichment(temporal_BLD, c_BD["c_e"][:, None])  # eq. 18
        missing_BT = history_BTH[:, :, 1] > 0
        attended_BD = self.attention(enriched_BLD, functional.pad(missing_BT, (0, 1)))
        attended_BD = self.attention_gate(attended_BD, enriched_BLD[:, -1])  # eq. 20
        output_BD = self.output_gate(self.feed_forward(attended_BD), temporal_BLD[:, -1])  # eqs 21, 22
        return ordered(self.median(output_BD)[None], self.spread(output_BD))


class GatedLinearUnit(nn.Module):
    """Eq. 5: how much of each unit passes."""

    def __init__(self, size: int, units: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(size, 2 * units)

    def forward(self, x: Tensor) -> Tensor:
        return functional.glu(self.linear(self.dropout(x)), dim=-1)


class GateAddNorm(nn.Module):
    """A gate, a skip connection and a layer norm."""

    def __init__(self, size: int, units: int, dropout: float) -> None:
        super().__init__()
        self.gate = GatedLinearUnit(size, units, dropout)
        self.norm = nn.LayerNorm(units)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        normed: Tensor = self.norm(skip + self.gate(x))
        return normed


class GatedResidualNetwork(nn.Module):
    """Eqs 2 to 4: as much non-linearity as is needed, down to none.

    Args:
        size: of the input.
        hidden: of the context and inside.
        units: of the output.
    """

    def __init__(self, size: int, hidden: int, units: int, dropout: float, *, with_context: bool = False) -> None:
        super().__init__()
        self.skip = nn.Linear(size, units) if size != units else nn.Identity()
        self.input = nn.Linear(size, hidden)
        self.context = nn.Linear(hidden, hidden, bias=False) if with_context else None
        self.hidden = nn.Linear(hidden, hidden)
        self.out = GateAddNorm(hidden, units, dropout)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        hidden = self.input(x)
        if self.context is not None:
            hidden = hidden + self.context(context)
        normed: Tensor = self.out(self.hidden(functional.elu(hidden)), self.skip(x))
        return normed


class VariableProjection(nn.Module):
    """Each number to a vector of its own: x_NV to x_VND."""

    def __init__(self, variables: int, size: int) -> None:
        super().__init__()
        self.weight_V1D = nn.Parameter(torch.randn(variables, 1, size))
        self.bias_V1D = nn.Parameter(torch.zeros(variables, 1, size))

    def forward(self, x_NV: Tensor) -> Tensor:
        return torch.addcmul(self.bias_V1D, x_NV.t()[:, :, None], self.weight_V1D)


class VariableSelectionNetwork(nn.Module):
    """Eqs 6 to 8: the mean of the variables, each after a network of its own, weighted by what matters in this row.

    The variables' gated residual networks are one batched product, not a loop.
    """

    def __init__(self, variables: int, size: int, dropout: float, *, with_context: bool) -> None:
        super().__init__()
        self.weights = GatedResidualNetwork(variables * size, size, variables, dropout, with_context=with_context)
        self.input = ParallelLinear(variables, size, size)
        self.hidden = ParallelLinear(variables, size, size)
        self.gate = ParallelLinear(variables, size, 2 * size)
        self.scale_V1D = nn.Parameter(torch.ones(variables, 1, size))
        self.bias_V1D = nn.Parameter(torch.zeros(variables, 1, size))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_VND: Tensor, context_ND: Tensor | None = None) -> Tensor:
        """The selected mixture, [N, D]."""
        weight_NV = self.weights(x_VND.transpose(0, 1).flatten(1), context_ND).softmax(dim=-1)
        hidden_VND = self.dropout(self.hidden(functional.elu(self.input(x_VND))))
        gated_VND = x_VND + functional.glu(self.gate(hidden_VND), dim=-1)
        normed_VND = functional.layer_norm(gated_VND, gated_VND.shape[-1:])
        own_VND = torch.addcmul(self.bias_V1D, normed_VND, self.scale_V1D)
        return torch.einsum("vnd,nv->nd", own_VND, weight_NV)


class InterpretableMultiHeadAttention(nn.Module):
    """Eqs 13 to 16: heads share their values, so that their mean weights say what was looked at."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (size // heads) ** -0.5
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size // heads)
        self.out = nn.Linear(size // heads, size)

    def forward(self, x_BLD: Tensor, masked_BL: Tensor) -> Tensor:
        """What the last step finds in all of them but the masked ones, [B, D]."""
        query_BAK = self.query(x_BLD[:, -1]).unflatten(1, (self.heads, -1))
        key_BLAK = self.key(x_BLD).unflatten(2, (self.heads, -1))
        score_BAL = torch.einsum("bak,blak->bal", query_BAK, key_BLAK) * self.scale
        weight_BL = score_BAL.masked_fill(masked_BL[:, None], -torch.inf).softmax(dim=-1).mean(1)
        found: Tensor = self.out(torch.einsum("bl,blk->bk", weight_BL, self.value(x_BLD)))
        return found
