"""What GPUs need of a training, shown without one."""

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainer.dataset import Batch, Inputs, Rows
from trainer.distributed import World
from trainer.learner import Learner, amp_dtype
from trainer.mlp import EnsembleMLP, MLPConfig
from trainer.recovery import Adjustments
from trainer.sampling import MemoryBatches
from trainer.spec import TrainSpec
from trainer.tft import TemporalFusionTransformer, TFTConfig
from trainer.usage import device_usage

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
ALONE = World(rank=0, size=1, device=CPU)
SPEC = TrainSpec(frame_path="frame", model_output_dir="bundle")
CONFIG = MLPConfig(numeric_width=3, category_sizes=(4,), embedding_dim=2, hidden_dims=(4,), members=2, dropout=0.0)


def batch(rows: int = 8) -> Batch:
    inputs = (torch.ones(rows, 3), torch.ones(rows, 1, dtype=torch.int64), None)
    return Batch(inputs=inputs, target=torch.ones(rows), weight=torch.ones(rows))


@pytest.fixture
def learner() -> Learner:
    """One that has learned from a batch."""
    learner = Learner(CONFIG, SPEC, ALONE, Adjustments())
    learner.step(batch(), 1e-2)
    return learner


def test_what_is_published_of_a_learner_on_a_gpu_is_on_the_cpu(learner: Learner) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        for state in learner.optimizer.state.values():
            state.update({name: value.to(GPU) for name, value in state.items()})
        tensors = [leaf for leaf in tree_leaves(learner.snapshot()) if isinstance(leaf, Tensor)]
    assert {each.device.type for each in tensors} == {"cpu"}
    assert len(tensors) > 3 * len(CONFIG.hidden_dims)


def test_what_is_published_stays_as_it_was_when_the_learner_goes_on(learner: Learner) -> None:
    snapshot = learner.snapshot()
    before = [leaf.clone() for leaf in tree_leaves(snapshot) if isinstance(leaf, Tensor)]
    learner.step(batch(), 1e-2)
    for one, other in zip(before, (leaf for leaf in tree_leaves(snapshot) if isinstance(leaf, Tensor)), strict=True):
        assert torch.equal(one, other)


def test_a_step_makes_no_tensor_of_numbers_for_which_it_would_wait(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch, "tensor")
    learner.step(batch(), 1e-2)


class Copies(TorchDispatchMode):
    """Counts what is copied to another device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._to_copy.default
        return func(*args, **(kwargs or {}))


def test_the_order_of_an_epoch_is_copied_to_the_device_once() -> None:
    device = torch.device("meta")
    count = 1000
    rows = Rows(
        inputs=Inputs(
            numeric=torch.empty(count, 3, device=device),
            codes=torch.empty(count, 1, dtype=torch.int64, device=device),
            history=None,
        ),
        start=np.zeros(count),
        target=torch.empty(count, device=device),
        weight=torch.empty(count, device=device),
        actual=np.zeros(count),
        is_holiday=np.zeros(count),
        mean_weight=1.0,
    )
    batches = MemoryBatches(rows, largest=64, seed=0, world=World(rank=0, size=1, device=device))
    with Copies() as copies:
        assert len(list(batches.epoch(1, 0))) == batches.steps_per_epoch > 1
    assert copies.count == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_lstm_of_a_tft_computes_in_float32_whatever_the_device_is_to_compute_in(dtype: str) -> None:
    config = TFTConfig(
        numeric_width=3,
        category_sizes=(4,),
        history_width=4,
        hidden_size=8,
        num_heads=2,
        lstm_layers=1,
        dropout=0.0,
    )
    learner = Learner(config, replace(SPEC, use_amp=True, amp_dtype=dtype), ALONE, Adjustments())
    model = learner.model
    assert isinstance(model, TemporalFusionTransformer)
    seen = []
    for lstm in (model.encoder, model.decoder):
        lstm.register_forward_pre_hook(
            lambda _, inputs: seen.append((torch.is_autocast_enabled("cpu"), inputs[0].dtype))
        )
    numeric, codes, _ = batch().inputs
    loss = learner.step(replace(batch(), inputs=(numeric, codes, torch.ones(8, 5, 4))), 1e-2)
    assert seen == [(False, torch.float32)] * 2
    assert loss.isfinite()


class Lookups(TorchDispatchMode):
    """Keeps by what operation rows of a matrix are looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[tuple[str, torch.dtype]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in {torch.ops.aten.index_select.default, torch.ops.aten.embedding.default}:
            self.called.append((func.name().removeprefix("aten::"), result.dtype))
        return result


@pytest.mark.parametrize(
    ("device", "bits", "expected"), [(CPU, 32, "index_select"), (CPU, 16, "embedding"), (GPU, 32, "embedding")]
)
def test_gradients_of_codes_are_sums_of_float32_that_are_the_same_each_time(
    device: torch.device, bits: int, expected: str
) -> None:
    model = EnsembleMLP(CONFIG)
    tensors = (next(model.embeddings.parameters()).detach(), torch.ones(2, 2, 4), torch.ones(50, dtype=torch.int64))
    with FakeTensorMode(allow_non_fake_inputs=True), torch.autocast("cpu", enabled=bits == 16), Lookups() as lookups:
        model._of_category(*(tensor.to(device) for tensor in tensors))
    # The sum is in what was looked up; that of `index_select` on a GPU is in any order.
    assert lookups.called == [(expected, torch.float32)]


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_gpus_that_only_emulate_bfloat16_compute_in_float16(
    native: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert amp_dtype(TrainSpec(frame_path="frame", model_output_dir="bundle", use_amp=True), GPU) == expected


def test_a_gpu_that_does_not_tell_its_utilization_is_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class NVMLError(Exception):
        """The base of what the driver's binding raises."""

    def refuse(_device: torch.device) -> int:
        raise NVMLError("Not Supported by a slice of a device")

    monkeypatch.setattr(torch.cuda, "utilization", refuse)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _device: 2**30)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _device: None)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert device_usage(GPU) == {"gpu_utilization": None, "memory_allocated_gb": 1.0}
    assert [record.getMessage() for record in caplog.records] == [
        "the utilization of the GPU is not known: Not Supported by a slice of a device"
    ]
