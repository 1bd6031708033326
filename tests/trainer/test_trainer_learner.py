"""What saves memory or time changes nothing else."""

from typing import Any

import pytest
import torch

from trainer.dataset import Batch
from trainer.distributed import World
from trainer.learner import Learner, split
from trainer.mlp import MLPConfig
from trainer.recovery import Adjustments
from trainer.spec import TrainSpec

CPU = World(rank=0, size=1, device=torch.device("cpu"))
CONFIG = MLPConfig(numeric_width=5, category_sizes=(7, 3), embedding_dim=4, hidden_dims=(16, 8), members=3, dropout=0.0)


def batch(rows: int = 50, seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    codes = torch.stack([torch.randint(0, size, (rows,), generator=random) for size in CONFIG.category_sizes], 1)
    numeric = torch.randn(rows, CONFIG.numeric_width, generator=random)
    return Batch(inputs=(numeric, codes, None), target=numeric[:, 0] / 2, weight=torch.rand(rows, generator=random))


def learned(adjustments: Adjustments | None = None, steps: int = 5, **fields: Any) -> tuple[list[float], Learner]:
    torch.manual_seed(0)
    spec = TrainSpec(frame_path="frame", model_output_dir="bundle", **fields)
    learner = Learner(CONFIG, spec, CPU, adjustments or Adjustments())
    return [learner.step(batch(seed=step), 1e-2).item() for step in range(steps)], learner


@pytest.mark.parametrize(
    "fields",
    [
        {"accumulation_steps": 7},
        {"gradient_checkpointing": True},
        {"accumulation_steps": 3, "adjustments": Adjustments(memory_splits=2)},
    ],
)
def test_parts_and_recomputed_blocks_learn_what_whole_batches_do(fields: dict[str, Any]) -> None:
    losses, learner = learned()
    other_losses, other = learned(**fields)
    assert other_losses == pytest.approx(losses, rel=1e-5)
    for one, another in zip(learner.average.parameters(), other.average.parameters(), strict=True):
        torch.testing.assert_close(another, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_learn_about_the_same(dtype: str) -> None:
    losses, _ = learned(steps=30)
    other_losses, learner = learned(steps=30, use_amp=True, amp_dtype=dtype)
    assert other_losses != losses
    assert other_losses == pytest.approx(losses, rel=0.05)
    assert other_losses[-1] < 0.7 * other_losses[0]
    assert ("scale" in learner.state()["SCALER_STATE"]) == (dtype == "float16")


def test_loss_scaler_that_overflows_skips_the_step_and_is_no_divergence() -> None:
    _, learner = learned(steps=1, use_amp=True, amp_dtype="float16")
    learner._scaler.update(2.0**60)
    before = [parameter.clone() for parameter in learner.model.parameters()]
    learner.step(batch(), 1e-2)
    assert all(torch.equal(one, other) for one, other in zip(before, learner.model.parameters(), strict=True))
    assert not learner.trouble
    learner._scaler.update(2.0**10)
    learner.step(batch(), 1e-2)
    assert not all(torch.equal(one, other) for one, other in zip(before, learner.model.parameters(), strict=True))


def test_gradients_that_overflow_at_every_scale_are_trouble() -> None:
    _, learner = learned(steps=1, use_amp=True, amp_dtype="float16")
    next(learner.model.parameters()).register_hook(lambda gradient: gradient * torch.inf)
    troubled = []
    for step in range(20):
        learner.step(batch(seed=step), 1e-2)
        troubled.append(learner.trouble)
    # The scaler begins at 2^16 and halves its scale each time.
    assert troubled == [False] * 16 + [True] * 4


def test_gradient_is_clipped_to_its_largest_norm() -> None:
    _, learner = learned(steps=1, grad_clip_norm=1e-3)
    gradients = [p.grad for p in learner.model.parameters() if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(each) for each in gradients]))
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(("rows", "parts", "sizes"), [(10, 3, [4, 4, 2]), (10, 1, [10]), (2, 5, [1, 1])])
def test_batch_is_cut_into_at_most_so_many_parts(rows: int, parts: int, sizes: list[int]) -> None:
    whole = batch(rows)
    cut = list(split(whole, parts))
    assert [len(part.target) for part in cut] == sizes
    assert torch.equal(torch.cat([part.inputs[0] for part in cut]), whole.inputs[0])
