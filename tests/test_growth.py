"""Grown latents: nothing that was learned is lost."""

import pytest
import torch
from tiny import PROMPT_DIM, tiny_transformer, tiny_unet

from nuwaxl.models.autoencoder import TemporalAutoencoderKL
from nuwaxl.models.mask_unet3d import MaskUNet3D
from nuwaxl.training.growth import (
    grow_autoencoder,
    grow_network,
    read_prompts_in_every_block,
    widen_unet,
)


@pytest.mark.parametrize("use_quant_conv", [True, False])
def test_a_grown_autoencoder_rebuilds_what_the_old_one_did(use_quant_conv: bool) -> None:
    torch.manual_seed(0)
    old = TemporalAutoencoderKL(
        3,
        (8, 8),
        norm_num_groups=4,
        use_quant_conv=use_quant_conv,
        latents_mean=(0.5, 1.0, 2.0),
        latents_std=(2.0, 3.0, 4.0),
    )
    new = grow_autoencoder(old, 5)
    pixels = torch.rand(1, 2, 3, 8, 8)
    with torch.no_grad():
        before, after = old.encode_latents(pixels), new.encode_latents(pixels)
        assert torch.allclose(after[:, :, :3], before, atol=1e-5)
        # The new channels carry something of the picture already, for the decoder to learn from.
        assert after[:, :, 3:].std() > 0.01
        assert torch.allclose(new.decode_latents(after), old.decode_latents(before), atol=1e-5)
        old_variance = old.posterior(pixels).logvar
        assert torch.allclose(new.posterior(pixels).logvar[:, :3], old_variance, atol=1e-5)


def test_a_grown_unet_predicts_the_old_channels_as_before() -> None:
    torch.manual_seed(0)
    old = MaskUNet3D(3, 3, (8, 8), attention_head_dim=4, norm_num_groups=4, cross_attention_dim=8)
    new = grow_network(old, 5)
    sample, prompts, times = torch.randn(1, 3, 5, 4, 4), torch.randn(1, 3, 2, 8), torch.arange(3.0)
    with torch.no_grad():
        before = old(sample[:, :, :3], 5, prompts, frame_times=times[None]).sample
        after = new(sample, 5, prompts, frame_times=times[None]).sample
    assert torch.allclose(after[:, :, :3], before, atol=1e-5)
    assert (after[:, :, 3:] == 0).all()


def test_a_grown_transformer_predicts_the_old_channels_as_before() -> None:
    old = tiny_transformer(num_prompt_tokens=None)
    new = grow_network(old, 6)
    sample, prompts = torch.randn(1, 3, 6, 4, 4), torch.randn(1, 3, 2, PROMPT_DIM)
    times, given = torch.arange(3.0)[None], torch.randn(1, 3, 6, 4, 4)
    with torch.no_grad():
        before = old(
            sample[:, :, :4], 5, prompts, frame_times=times, given_latents=given[:, :, :4]
        ).sample
        after = new(sample, 5, prompts, frame_times=times, given_latents=given).sample
        assert torch.allclose(after[:, :, :4], before, atol=1e-5)
        assert (after[:, :, 4:] == 0).all()
        pooling = read_prompts_in_every_block(old, 2)
        args = (sample[:, :, :4], 5, prompts)
        assert torch.equal(
            pooling(*args, frame_times=times).sample, old(*args, frame_times=times).sample
        )


def test_latents_do_not_shrink() -> None:
    with pytest.raises(ValueError, match="not shrink to 2"):
        grow_autoencoder(TemporalAutoencoderKL(3, (8, 8), norm_num_groups=4), 2)


def test_a_unet_learns_to_read_prompts_in_every_block_from_where_it_was() -> None:
    torch.manual_seed(0)
    old = MaskUNet3D(3, 3, (8, 8), attention_head_dim=4, norm_num_groups=4, cross_attention_dim=8)
    new = read_prompts_in_every_block(old, 2)
    sample, prompts, times = torch.randn(1, 3, 3, 4, 4), torch.randn(1, 3, 2, 8), torch.arange(3.0)
    with torch.no_grad():
        before = old(sample, 5, prompts, frame_times=times[None]).sample
        assert torch.equal(new(sample, 5, prompts, frame_times=times[None]).sample, before)
    assert new.config["num_prompt_tokens"] == 2


WIDENED = {"block_out_channels": (8, 16, 16), "cross_attention_dim": PROMPT_DIM}


@pytest.mark.parametrize("middle", [16, 8])
def test_a_widened_unet_is_nearly_what_it_was(middle: int) -> None:
    """Exactly, to rounding, until the up blocks, where norms see features of two widths."""
    shape = {**WIDENED, "block_out_channels": (8, middle, 16), "num_prompt_tokens": 2}
    old = tiny_unet(**shape)
    new = widen_unet(old, (16, middle, 16))
    assert new.config["block_out_channels"] == [16, middle, 16]
    torch.manual_seed(0)
    sample = torch.randn(1, 3, 4, 8, 8)
    inputs = (sample, torch.tensor([400]), torch.randn(1, 3, 2, PROMPT_DIM))
    options = {
        "frame_times": torch.arange(3.0)[None],
        "given_latents": sample,
        "conditioning_mask": torch.tensor([[1.0, 0, 0]]),
    }
    seen: dict[str, list[torch.Tensor]] = {"finest": [], "middle": []}
    for network in (old, new):

        def note_finest(_: object, __: object, out: tuple[torch.Tensor, object]) -> None:
            seen["finest"].append(out[0])

        def note_middle(_: object, __: object, out: torch.Tensor) -> None:
            seen["middle"].append(out)

        network.down_blocks[0].register_forward_hook(note_finest)
        network.mid_block.register_forward_hook(note_middle)
    with torch.no_grad():
        before, after = (each(*inputs, **options).sample for each in (old, new))
        fresh = tiny_unet(seed=5, **shape)(*inputs, **options).sample
    for copy in (0, 1):
        torch.testing.assert_close(seen["finest"][1][:, copy::2], seen["finest"][0])
    torch.testing.assert_close(seen["middle"][1], seen["middle"][0], atol=1e-4, rtol=1e-4)
    error, other = (after - before).square().mean(), (fresh - before).square().mean()
    assert error < 0.1 * other


def test_copies_of_a_widened_unet_learn_apart() -> None:
    new = widen_unet(tiny_unet(**WIDENED), (16, 16, 16))
    sample = torch.randn(1, 2, 4, 8, 8)
    prompts, times = torch.randn(1, 2, 2, PROMPT_DIM), torch.arange(2.0)[None]
    new(sample, 5, prompts, frame_times=times).sample.square().mean().backward()
    gradient = new.conv_in.weight.grad
    assert gradient is not None
    assert not torch.allclose(gradient[::2], gradient[1::2], rtol=1e-2)


@pytest.mark.parametrize("widths", [(12, 16, 16), (8, 32, 16), (8, 16)])
def test_other_widths_are_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"`block_out_channels` must be multiples of \[8, 16, 16\]"
    ):
        widen_unet(tiny_unet(**WIDENED), widths)
