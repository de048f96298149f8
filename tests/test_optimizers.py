"""Muon beside AdamW: orthogonal steps for hidden layers' matrices, the usual ones for the rest."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nuwaxl.config import ConfigError
from nuwaxl.training.loop import LoopConfig, train
from nuwaxl.training.optimizers import is_hidden_matrix, make_optimizer, orthogonalized


class Network(nn.Module):
    """Two ends and a hidden layer between them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv_in = nn.Conv2d(3, 16, 3, padding=1)
        self.hidden = nn.Conv2d(16, 16, 3, padding=1)
        self.conv_out = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.conv_out(self.hidden(self.conv_in(pixels).tanh()).tanh())


class Stage(nn.Module):
    """Learns to give back its input turned upside down."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Network()

    def batch(self, index: int, batch_size: int) -> dict[str, Tensor]:
        values = np.random.default_rng(index).normal(size=(batch_size, 3, 4, 4))
        return {"pixels": torch.from_numpy(values).float()}

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return (model(batch["pixels"]) - batch["pixels"].flip(2)).square().mean(), {}

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(self.model.state_dict(), folder / "network.pt")


@pytest.mark.parametrize("shape", [(2, 40, 40), (3, 16, 90), (1, 90, 16)])
def test_orthogonal_matrices_keep_the_directions_and_even_out_the_sizes(shape) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape) * 1e-4
    left, sizes, right = torch.linalg.svd(matrices, full_matrices=False)
    made = orthogonalized(matrices)
    assert made.dtype == torch.float32
    inside = torch.einsum("bri,brc,bic->bi", left, made, right)
    large = sizes > 0.02 * sizes.norm(dim=1, keepdim=True)
    assert large.float().mean() > 0.8
    assert inside[large].min() > 0.6
    assert inside[large].max() < 1.3
    between = made - torch.einsum("bri,bi,bic->brc", left, inside, right)
    assert between.norm() < 0.1 * made.norm()


def test_only_hidden_matrices_take_orthogonal_steps_and_the_others_adamws() -> None:
    network, adamw = Network(), Network()
    hidden = [n for n, w in network.named_parameters() if is_hidden_matrix(n, w)]
    assert hidden == ["hidden.weight"]
    optimizers = [
        make_optimizer(kind, each, 0.01, 0.1)
        for kind, each in (("muon", network), ("adamw", adamw))
    ]
    before = network.hidden.weight.detach().clone()
    for number in range(3):
        for each in (network, adamw):
            torch.manual_seed(number)
            for weight in each.parameters():
                weight.grad = torch.randn_like(weight)
        start = network.hidden.weight.detach().clone()
        for optimizer in optimizers:
            optimizer.step()
    ours, theirs = dict(network.named_parameters()), dict(adamw.named_parameters())
    same = [name for name in ours if torch.equal(ours[name], theirs[name])]
    assert same == [name for name in ours if name != "hidden.weight"]
    # A step in units of the learning rate is as large as AdamW's, about a fifth of it.
    step = network.hidden.weight.detach() - start * (1 - 0.01 * 0.1)
    assert 0.15 < step.square().mean().sqrt() / 0.01 < 0.25
    assert not torch.equal(before, network.hidden.weight)


def test_a_weight_without_gradient_stays_and_a_closure_is_called() -> None:
    network = Network()
    optimizer: Any = make_optimizer("muon", network, 0.01, 0.1)
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}

    def closure() -> float:
        network.conv_in(torch.ones(1, 3, 4, 4)).sum().backward()
        return 7.0

    assert optimizer.step(closure) == 7.0
    moved = [n for n, w in network.named_parameters() if not torch.equal(w, before[n])]
    assert moved == ["conv_in.weight", "conv_in.bias"]


def settings(folder: Path, **changes: Any) -> LoopConfig:
    values = dict(
        output_dir=str(folder), max_steps=40, batch_size=8, learning_rate=0.02, warmup_steps=1,
        decay_fraction=0.5, mixed_precision="no", log_every=1, ema_decay=0.5, optimizer="muon",
    )  # fmt: skip
    return LoopConfig(**{**values, **changes})


def test_a_run_with_muon_stopped_and_resumed_equals_one_that_was_not(tmp_path: Path) -> None:
    train(Stage(), settings(tmp_path / "whole"))
    stopped = train(Stage(), settings(tmp_path / "parts", max_minutes=1e-9))
    assert 0 < stopped < 40
    assert train(Stage(), settings(tmp_path / "parts")) == 40
    whole, parts = (torch.load(tmp_path / name / "model/network.pt") for name in ("whole", "parts"))
    for name, weight in whole.items():
        assert torch.equal(weight, parts[name]), name


def test_a_checkpoint_of_the_other_optimizer_is_one_line(tmp_path: Path) -> None:
    train(Stage(), settings(tmp_path, optimizer="adamw", max_minutes=1e-9))
    with pytest.raises(ConfigError, match=r"other settings.*`loop.optimizer`.*`loop.output_dir`"):
        train(Stage(), settings(tmp_path))


def test_it_learns(tmp_path: Path) -> None:
    stage = Stage()
    batch = stage.batch(1000, 64)
    before = stage.loss(stage.model, batch)[0].item()
    train(stage, settings(tmp_path))
    assert stage.loss(stage.model, batch)[0].item() < 0.7 * before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "sgd"}, "`loop.optimizer` must be adamw or muon, got 'sgd'"),
        ({"sharding": "fsdp"}, "must be adamw with `loop.sharding=fsdp`, got 'muon'"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, change: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(tmp_path, **change)
