"""The two optimizers of the training loop.

Knows weights and gradients, not losses; the learning rate is set from outside at each step.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

BETAS = (0.9, 0.99)
MOMENTUM = 0.95

# Newton-Schulz of fifth order as Jordan et al. tuned it ("Muon: an optimizer for hidden layers in
# neural networks", 2024): its slope at zero is large, so five turns bring singular values from
# 0.01 to between 0.7 and 1.2.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_TURNS = 5

_UPDATE_RMS = 0.2
"""Of one step in units of the learning rate: AdamW's own, so both take one schedule (Liu et al.
2025, "Muon is scalable for LLM training", section 2.2)."""

# Layers that read latents or tokens and that make predictions; what Muon is for lies between.
_ENDS = re.compile(r"(^|\.)(conv_in|conv_out)\.|^(patch_embed|proj_out|prompt_proj)\.")


class MuonAdamW(torch.optim.AdamW):
    """Muon for the matrices of hidden layers, AdamW for all else.

    Muon moves a matrix by its momentum with all singular values made one, so rare directions of
    the gradient count as much as frequent ones. A convolution is a matrix of output channels
    against all that they read.

    Args:
        matrices: weights of two or more dimensions.
        others: weights of any kind.
        learning_rate: of both.
        weight_decay: of both, decoupled.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        groups: list[dict[str, Any]] = [
            {"params": list(weights), "orthogonal": orthogonal}
            for weights, orthogonal in ((matrices, True), (others, False))
        ]
        super().__init__(
            [group for group in groups if group["params"]],
            learning_rate,
            betas=BETAS,
            weight_decay=weight_decay,
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move all weights that have a gradient; those of matrices are used up.

        Args:
            closure: makes the gradients first, as torch's optimizers have it.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["orthogonal"]:
                self._move(group)
        super().step()
        return loss

    def _move(self, group: dict[str, Any]) -> None:
        """One step of Muon, weights of one shape together."""
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        for weight in group["params"]:
            if weight.grad is None:
                continue
            state = self.state[weight]
            if not state:
                state["step"] = torch.tensor(0.0)
                state["momentum"] = torch.zeros_like(weight)
            state["step"] += 1
            state["momentum"].lerp_(weight.grad, 1 - MOMENTUM)
            ahead = weight.grad.lerp(state["momentum"], MOMENTUM).flatten(1)
            by_shape.setdefault(ahead.shape, []).append((weight, ahead))
            weight.grad = None  # else AdamW would move it too
        for (rows, columns), moved in by_shape.items():
            updates = orthogonalized(torch.stack([ahead for _, ahead in moved]))
            size = group["lr"] * _UPDATE_RMS * max(rows, columns) ** 0.5
            for (weight, _), update in zip(moved, updates, strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update.view_as(weight), alpha=-size)


def orthogonalized(
    matrices: Float[Tensor, "batch rows columns"],
) -> Float[Tensor, "batch rows columns"]:
    """Matrices with the same singular vectors, all singular values near one.

    Args:
        matrices: of any scale; computed in bf16.
    """
    a, b, c = _COEFFICIENTS
    x = matrices.bfloat16()
    if is_tall := x.shape[1] > x.shape[2]:
        x = x.mT.contiguous()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_TURNS):
        squares = x @ x.mT
        polynomial = torch.baddbmm(squares, squares, squares, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return (x.mT if is_tall else x).to(matrices.dtype)


def is_hidden_matrix(name: str, weight: Tensor) -> bool:
    """Whether `MuonAdamW` makes a weight's steps orthogonal.

    Args:
        name: of the weight in its network.
        weight: of any shape.
    """
    return weight.dim() >= 2 and min(weight.flatten(1).shape) >= 16 and not _ENDS.search(name)


def make_optimizer(
    kind: str, network: nn.Module, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """The optimizer of the weights that learn.

    Args:
        kind: 'adamw' or 'muon'.
        network: that is trained.
        learning_rate: until the loop sets another.
        weight_decay: decoupled.
    """
    learned = [(name, w) for name, w in network.named_parameters() if w.requires_grad]
    if kind == "adamw":
        return torch.optim.AdamW(
            [w for _, w in learned], learning_rate, betas=BETAS, weight_decay=weight_decay
        )
    matrices = {name for name, weight in learned if is_hidden_matrix(name, weight)}
    return MuonAdamW(
        [w for name, w in learned if name in matrices],
        [w for name, w in learned if name not in matrices],
        learning_rate,
        weight_decay,
    )
