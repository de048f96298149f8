"""The estimate of new frames, the mover behind it, and the networks that have one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import PROMPT_DIM, tiny_transformer, tiny_unet
from torch import nn

from nuwaxl.models.backbones import Backbone, load_backbone
from nuwaxl.models.frame_estimator import FrameEstimator
from nuwaxl.models.latent_mover import LatentMover, cell_centres, moved
from nuwaxl.training.growth import with_estimator

MOVER = {"channels": 8, "fine_channels": 2, "upscale": 2}


def tiny_estimator(*, awake: bool = False, **changes: Any) -> FrameEstimator:
    torch.manual_seed(3)
    sizes: dict = {"in_channels": 4, "channels": 8, "prompt_dim": 2 * PROMPT_DIM, "mover": MOVER}
    estimator = FrameEstimator(**sizes | changes)
    if awake:
        for weight in estimator.parameters():
            if not weight.any():
                nn.init.normal_(weight, std=0.1)
    return estimator.eval()


def clip(given: list[int], frames: int = 5) -> tuple[torch.Tensor, ...]:
    """Latents, mask, times and prompts of one clip of one scene."""
    torch.manual_seed(0)
    mask = torch.zeros(1, frames)
    mask[0, given] = 1
    prompts = torch.randn(1, 1, 2, PROMPT_DIM).expand(-1, frames, -1, -1)
    return torch.randn(1, frames, 4, 4, 6), mask, torch.arange(frames)[None] / 8, prompts


class Shift(LatentMover):
    """A mover whose fine features are the latents: it moves whole cells exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.unfold = self.fold = nn.Sequential()


@torch.no_grad()
def test_whole_cells_are_moved_exactly() -> None:
    latents = torch.randn(2, 4, 4, 6)
    motion = torch.tensor([[2 / 6, 0.0], [0.0, -2 / 4]])
    after = Shift().folded(latents, motion)
    torch.testing.assert_close(after[0, :, :, :-1], latents[0, :, :, 1:])
    torch.testing.assert_close(after[1, :, 1:], latents[1, :, :-1])
    assert cell_centres(2, 4, latents.device)[0, 1, 3].tolist() == [0.75, 0.5]


@pytest.mark.parametrize(
    ("given", "shares"),
    [([0, 4], {1: (0.75, 0.25), 2: (0.5, 0.5)}), ([1, 2], {0: (1, 0), 4: (0, 1)})],
)
@torch.no_grad()
def test_at_the_start_given_neighbours_are_blended_by_time(given: list[int], shares: dict) -> None:
    latents, mask, times, prompts = clip(given)
    estimator = tiny_estimator(num_motions=1)
    estimator.latent_mover = Shift()  # ... and what is not moved is the neighbour itself
    estimate = estimator(latents, mask, times, prompts)
    before, after = (latents[0, frame] for frame in given)
    for frame, (first, second) in shares.items():
        torch.testing.assert_close(estimate[0, frame], first * before + second * after)
    assert torch.equal(estimate[0, given], latents[0, given])


@torch.no_grad()
def test_a_known_motion_is_followed() -> None:
    """A picture that moves by a cell per frame: with that velocity the estimate is exact."""
    strip = torch.randn(4, 4, 12)
    latents = torch.stack([strip[..., start : start + 6] for start in range(5)])[None]
    _, mask, times, prompts = clip([0, 4])
    estimator = tiny_estimator(num_motions=1)
    estimator.latent_mover = Shift()
    estimator.velocity.bias.copy_(torch.tensor([2 / 6 / 0.125, 0.0]))
    assert estimator.choice.bias is not None
    estimator.choice.bias.copy_(torch.tensor([-50.0, 50.0, -50.0, 50.0]))
    estimate = estimator(latents * mask[..., None, None, None], mask, times, prompts)
    torch.testing.assert_close(estimate, latents)


@torch.no_grad()
def test_nothing_given_has_no_estimate_and_given_frames_stay() -> None:
    latents, mask, times, prompts = clip([])
    estimator = tiny_estimator(awake=True)
    assert not estimator(latents, mask, times, prompts).any()
    mask[0, 2] = 1
    estimate = estimator(latents, mask, times, prompts)
    assert torch.equal(estimate[0, 2], latents[0, 2])
    assert estimate[0].flatten(1).std(dim=1).min() > 0.1


@torch.no_grad()
def test_latents_of_frames_that_are_not_given_do_not_matter() -> None:
    latents, mask, times, prompts = clip([0, 3])
    estimator = tiny_estimator(awake=True)
    before = estimator(latents, mask, times, prompts)
    latents[0, [1, 2, 4]] += 1
    assert torch.equal(estimator(latents, mask, times, prompts), before)


def test_every_weight_learns() -> None:
    latents, mask, times, prompts = clip([0, 3])
    prompts = prompts + torch.randn(1, 5, 2, PROMPT_DIM)  # a prompt that changes
    estimator = tiny_estimator(awake=True)
    estimator(latents, mask, times, prompts).square().sum().backward()
    silent = [n for n, w in estimator.named_parameters() if w.grad is None or not w.grad.any()]
    assert silent == []
    gradients = [weight.grad for weight in estimator.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("tiny", [tiny_unet, tiny_transformer])
@torch.no_grad()
def test_a_network_given_an_estimator_is_at_first_the_one_without(
    tiny: Callable[..., Backbone], tmp_path: Path
) -> None:
    latents, mask, times, prompts = clip([0, 4])
    inputs = {"frame_times": times, "given_latents": latents, "conditioning_mask": mask}
    network = tiny(num_prompt_tokens=2)
    before = network(latents, 9, prompts, **inputs).sample
    grown = with_estimator(network, tiny_estimator(awake=True)).eval()
    torch.testing.assert_close(grown(latents, 9, prompts, **inputs).sample, before)
    nn.init.normal_(grown.estimate_share.weight)
    grown.save_pretrained(tmp_path)
    loaded = load_backbone(tmp_path)
    cache: dict = {}
    after = loaded(latents, 9, prompts, **inputs, cache=cache).sample
    assert not torch.allclose(after, before, atol=1e-2)
    # What the given frames decide is computed once per segment, not at every step.
    loaded.frame_estimator.forward = None  # pyright: ignore[reportAttributeAccessIssue]
    torch.testing.assert_close(loaded(latents, 9, prompts, **inputs, cache=cache).sample, after)
    again = with_estimator(grown, tiny_estimator())
    assert not again.frame_estimator.choice.weight.any()


def test_an_estimator_of_other_latents_or_prompts_is_refused() -> None:
    network = tiny_transformer(num_prompt_tokens=2)
    with pytest.raises(ValueError, match="`in_channels` 4"):
        with_estimator(network, tiny_estimator(in_channels=5))
    with pytest.raises(ValueError, match="`prompt_dim` 32"):
        with_estimator(network, tiny_estimator(prompt_dim=7))
    for backbone in (tiny_unet, tiny_transformer):
        with pytest.raises(ValueError, match=r"`estimator` must be None .* image network"):
            with_estimator(backbone(temporal=False, num_prompt_tokens=2), tiny_estimator())


@torch.no_grad()
def test_moved_pictures_are_moved_by_that_many_pixels() -> None:
    pictures = torch.rand(2, 3, 8, 8)
    after = moved(pictures, torch.tensor([[2 * 3 / 8, 0.0], [0.0, 0.0]]))
    torch.testing.assert_close(after[0, :, :, :5], pictures[0, :, :, 3:])
    torch.testing.assert_close(after[1], pictures[1])
