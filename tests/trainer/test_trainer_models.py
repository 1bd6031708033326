import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from trainer_frames import made_up_table

from trainer.dataset import Batch, Dataset
from trainer.mlp import EnsembleMLP
from trainer.model import build_model, config_from_dict, config_to_dict, model_config
from trainer.objective import loss
from trainer.quantiles import MEDIAN, QUANTILES, calibrated_spread, rescaled
from trainer.spec import MODEL_TYPES, TrainSpec
from trainer.tft import GatedResidualNetwork, InterpretableMultiHeadAttention, VariableSelectionNetwork

CPU = torch.device("cpu")


def example(model_type: str) -> tuple[nn.Module, Dataset]:
    torch.manual_seed(0)
    spec = TrainSpec(frame_path="frame", model_output_dir="bundle", model_type=model_type, members=3)
    data = Dataset.of(made_up_table(), spec, CPU)
    return build_model(model_config(spec, data.encoder)), data


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_quantiles_never_cross(model_type: str) -> None:
    model, data = example(model_type)
    for parameter in model.parameters():
        parameter.detach().mul_(3)
    prediction_MBQ = model(*data.training.inputs.take(torch.arange(500)))
    assert prediction_MBQ.shape == (1 if model_type == "tft" else 3, 500, len(QUANTILES))
    quantile_BQ = prediction_MBQ.mean(0)
    assert (quantile_BQ.diff(dim=1) >= 0).all()


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_model_starts_from_the_start_itself(model_type: str) -> None:
    model, data = example(model_type)
    prediction_MBQ = model(*data.training.inputs.take(torch.arange(500)))
    assert prediction_MBQ[..., MEDIAN].abs().mean() < 0.1


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_model_is_rebuilt_from_its_config_as_json(model_type: str) -> None:
    spec = TrainSpec(frame_path="frame", model_output_dir="bundle", model_type=model_type)
    config = model_config(spec, example(model_type)[1].encoder)
    fields = json.loads(json.dumps(config_to_dict(config)))
    assert fields["model_type"] == model_type
    assert config_from_dict(fields) == config


@pytest.mark.parametrize("rows", [2, 500])
def test_members_are_perceptrons_on_the_numbers_and_embeddings_side_by_side(rows: int) -> None:
    model, data = example("mlp")
    assert isinstance(model, EnsembleMLP)
    numeric_BF, codes_BC, _ = data.training.inputs.take(torch.arange(rows))
    codes_BC[0] = 0  # a store and a department never seen

    def one_by_one() -> Tensor:
        medians = []
        for member in range(model.members):
            embedded = [
                embedding(codes_B).chunk(model.members, dim=1)[member]
                for embedding, codes_B in zip(model.embeddings, codes_BC.unbind(1), strict=True)
            ]
            x_BD = torch.cat([numeric_BF, *embedded], dim=1)
            for layer in model.layers:
                weight_MDH, bias_M1H = layer.parameters()
                x_BD = torch.relu(x_BD @ weight_MDH[member] + bias_M1H[member])
            medians.append(x_BD @ model.median.weight_PDH[member] + model.median.bias_P1H[member])
        return torch.cat(medians, dim=1).T

    def with_gradients(median_MB: Tensor) -> list[Tensor]:
        model.zero_grad()
        median_MB.square().sum().backward()
        learned = (p for name, p in model.named_parameters() if "spread" not in name)
        return [median_MB.detach(), *(p.grad.clone() for p in learned if p.grad is not None)]

    medians = model(numeric_BF, codes_BC)[..., MEDIAN]
    for ours, theirs in zip(with_gradients(medians), with_gradients(one_by_one()), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_gradients_lie_in_memory_as_their_parameters_do(model_type: str) -> None:
    """Those that do not are copied in every step of several processes, with a warning of PyTorch's."""
    model, data = example(model_type)
    batch = data.training.batch(torch.arange(50))
    loss(model(*batch.inputs), batch.target, batch.weight).backward()
    strides = {name: (p.stride(), p.grad.stride()) for name, p in model.named_parameters() if p.grad is not None}
    assert strides
    assert {name: both for name, both in strides.items() if both[0] != both[1]} == {}


def test_outer_quantiles_leave_the_medians_training_as_it_is() -> None:
    model, data = example("mlp")
    batch = data.training.batch(torch.arange(200))

    def gradients(objective: Tensor) -> list[Tensor]:
        model.zero_grad()
        objective.backward()
        return [p.grad.clone() for name, p in model.named_parameters() if "spread" not in name and p.grad is not None]

    median_MB = model(*batch.inputs)[..., MEDIAN]
    alone = gradients(((median_MB - batch.target).abs() * batch.weight).mean(1).sum())
    together = gradients(loss(model(*batch.inputs), batch.target, batch.weight))
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other)


def test_loss_is_the_one_worked_out_by_hand() -> None:
    inputs = (torch.empty(2, 0), torch.empty(2, 0), None)
    batch = Batch(inputs=inputs, target=torch.tensor([1.0, 0.0]), weight=torch.tensor([1.0, 3.0]))
    prediction_MBQ = torch.tensor([[[0.0, 0.5, 3.0], [-1.0, 0.0, 1.0]]])
    first, second = 0.1 * 1 + 0.5 * 0.5 + 0.1 * 2, 0.1 * 1 + 0.1 * 1
    assert loss(prediction_MBQ, batch.target, batch.weight).item() == pytest.approx(2 * (first * 1 + second * 3) / 2)


def test_calibrated_spread_covers_one_row_in_a_hundred_more_than_promised_of_its_own() -> None:
    random = np.random.default_rng(0)
    scale_N = random.uniform(0.1, 3, 10_000)
    actual_N = random.exponential(scale_N)
    guess_NQ = scale_N[:, None] * np.array([0.5, 0.7, 0.8])
    low_N, median_N, high_N = rescaled(guess_NQ, calibrated_spread(guess_NQ, actual_N)).T
    assert (actual_N < low_N).mean() == pytest.approx(0.095, abs=0.001)
    assert (actual_N > high_N).mean() == pytest.approx(0.095, abs=0.001)
    assert np.array_equal(median_N, guess_NQ[:, 1])
    assert calibrated_spread(guess_NQ[:5], actual_N[:5]) == (1, 1)


def test_variable_selection_is_one_gated_residual_network_per_variable_weighted_by_another() -> None:
    torch.manual_seed(0)
    network = VariableSelectionNetwork(3, 4, 0.0, with_context=True)
    x_VND, context_ND = torch.randn(3, 5, 4), torch.randn(5, 4)
    weight_NV = network.weights(torch.cat(list(x_VND), dim=1), context_ND).softmax(-1)
    expected_ND = torch.zeros(5, 4)
    for variable, x_ND in enumerate(x_VND):
        own = GatedResidualNetwork(4, 4, 4, 0.0)
        linears = {network.input: own.input, network.hidden: own.hidden, network.gate: own.out.gate.linear}
        for parallel, linear in linears.items():
            linear.weight.data = parallel.weight_PDH[variable].t()
            linear.bias.data = parallel.bias_P1H[variable, 0]
        expected_ND += weight_NV[:, variable, None] * own(x_ND)
    torch.testing.assert_close(network(x_VND, context_ND), expected_ND)


def test_attention_does_not_see_masked_steps() -> None:
    torch.manual_seed(0)
    attention = InterpretableMultiHeadAttention(8, 2)
    x_BLD, masked_BL = torch.randn(3, 6, 8), torch.zeros(3, 6, dtype=torch.bool)
    masked_BL[:, :2] = True
    changed_BLD = x_BLD.clone()
    changed_BLD[:, :2] = 1e3
    assert torch.equal(attention(x_BLD, masked_BL), attention(changed_BLD, masked_BL))
    masked_BL[:, :5] = True
    torch.testing.assert_close(attention(x_BLD, masked_BL), attention.out(attention.value(x_BLD[:, -1])))


def test_attention_weights_are_the_mean_of_the_heads() -> None:
    torch.manual_seed(0)
    attention = InterpretableMultiHeadAttention(8, 2)
    x_BLD = torch.randn(3, 6, 8)
    queries, keys = attention.query(x_BLD[:, -1]).chunk(2, -1), attention.key(x_BLD).chunk(2, -1)
    heads = [
        functional.softmax((key_BLK @ query_BK[:, :, None]).squeeze(2) / 2, dim=-1)
        for query_BK, key_BLK in zip(queries, keys, strict=True)
    ]
    found_BK = ((heads[0] + heads[1])[:, None] / 2 @ attention.value(x_BLD)).squeeze(1)
    torch.testing.assert_close(attention(x_BLD, torch.zeros(3, 6, dtype=torch.bool)), attention.out(found_BK))
