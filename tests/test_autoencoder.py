"""TemporalAutoencoderKL: the image VAE at the start, windows that do not see each other."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from nuwaxl.models.autoencoder import TemporalAutoencoderKL


def image_vae(**changes: object) -> AutoencoderKL:
    torch.manual_seed(0)
    values = dict(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=4,
    )
    return AutoencoderKL(**{**values, **changes}).eval()  # pyright: ignore[reportArgumentType]


def wake_temporal_layers(vae: TemporalAutoencoderKL) -> TemporalAutoencoderKL:
    """Random temporal layers, so that frames of a window matter to each other."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in vae.named_parameters():
            if "temporal" in name:
                weight.add_(0.1 * torch.randn_like(weight))
    return vae


def frames(*shape: int) -> Tensor:
    torch.manual_seed(2)
    return torch.rand(*shape) * 2 - 1


@pytest.mark.parametrize("quant", [True, False])
@pytest.mark.parametrize("temporal_encoder", [True, False])
def test_at_the_start_every_frame_is_the_image_vaes(quant: bool, temporal_encoder: bool) -> None:
    image = image_vae(use_quant_conv=quant, use_post_quant_conv=quant)
    video = TemporalAutoencoderKL.from_image_vae(image, temporal_encoder=temporal_encoder)
    pixels = frames(2, 3, 3, 16, 16)
    with torch.no_grad():
        raw = image.encode(pixels.flatten(0, 1), return_dict=False)[0].mode()
        post_quant_conv = image.post_quant_conv or torch.nn.Identity()
        expected = image.decoder(post_quant_conv(raw))
        latents = video.encode_latents(pixels)
        assert torch.allclose(
            latents.flatten(0, 1), raw * image.config["scaling_factor"], atol=1e-5
        )
        assert torch.allclose(video.decode_latents(latents).flatten(0, 1), expected, atol=1e-4)


def test_every_spatial_layer_is_followed_by_a_temporal_one_of_its_kind() -> None:
    video = TemporalAutoencoderKL.from_image_vae(image_vae())
    assert video.decoder_temporal is not None
    kinds = [type(layer).__name__ for layer in video.decoder_temporal]
    # Mid block: residual, attention, residual; then three residual blocks per scale.
    assert kinds == ["TemporalConv", "TemporalAttention", "TemporalConv"] + ["TemporalConv"] * 6


def test_a_vae_of_other_blocks_is_refused_in_one_line() -> None:
    other = image_vae(up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"))
    with pytest.raises(ValueError, match="image_vae"):
        TemporalAutoencoderKL.from_image_vae(other)


@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_patches_change_the_scale_and_not_the_size(patch_size: int) -> None:
    vae = TemporalAutoencoderKL(4, (8, 16), norm_num_groups=4, patch_size=patch_size)
    assert vae.spatial_scale == 2 * patch_size
    pixels = frames(1, 2, 3, 16, 24)
    latents = vae.encode_latents(pixels)
    assert latents.shape == (1, 2, 4, 16 // vae.spatial_scale, 24 // vae.spatial_scale)
    assert vae.decode_latents(latents).shape == pixels.shape


def test_sides_off_the_grid_are_refused() -> None:
    vae = TemporalAutoencoderKL(4, (8, 16), norm_num_groups=4)
    with pytest.raises(ValueError, match="multiples of 2, got 15x16"):
        vae.posterior(frames(1, 1, 3, 15, 16))


def test_frames_of_a_window_see_each_other_and_windows_do_not() -> None:
    vae = wake_temporal_layers(TemporalAutoencoderKL(4, (8, 16), norm_num_groups=4))
    latents = torch.randn(3, 5, 4, 4, 4)
    changed = latents.clone()
    changed[1, 2] += 1
    with torch.no_grad():
        before, after = vae.decode_latents(latents), vae.decode_latents(changed)
    # Same shapes, same kernels: windows that nothing touched are the same to the bit.
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.equal(before[1, 4], after[1, 4])


@pytest.mark.parametrize("slicing", [True, False])
def test_pixels_do_not_depend_on_the_batch_they_are_decoded_in(slicing: bool) -> None:
    vae = wake_temporal_layers(TemporalAutoencoderKL(4, (8, 16), norm_num_groups=4))
    latents = torch.randn(4, 3, 4, 4, 4)
    vae.enable_slicing() if slicing else vae.disable_slicing()
    with torch.no_grad():
        together = vae.decode_latents(latents)
        alone = torch.cat([vae.decode_latents(latents[i : i + 1]) for i in (2, 0, 3, 1)])
    # Kernels may sum in another order for another batch: 1e-4 of a range of 2, in fp32.
    assert torch.allclose(together[[2, 0, 3, 1]], alone, atol=1e-4)


def test_the_encoder_sees_frames_one_by_one_unless_asked() -> None:
    pixels = frames(1, 3, 3, 8, 8)
    for temporal_encoder in (False, True):
        vae = wake_temporal_layers(
            TemporalAutoencoderKL(4, (8, 16), norm_num_groups=4, temporal_encoder=temporal_encoder)
        )
        with torch.no_grad():
            whole, first = vae.encode_latents(pixels), vae.encode_latents(pixels[:, :1])
        assert torch.allclose(whole[:, 0], first[:, 0], atol=1e-5) is not temporal_encoder


def test_saved_and_loaded_it_decodes_the_same(tmp_path: Path) -> None:
    vae = TemporalAutoencoderKL(
        4, (8, 16), norm_num_groups=4, patch_size=2, latents_mean=(0.1,) * 4, latents_std=(2.0,) * 4
    ).eval()
    vae.save_pretrained(tmp_path)
    again = TemporalAutoencoderKL.from_pretrained(tmp_path, disable_mmap=True)
    latents = torch.randn(1, 2, 4, 4, 4)
    with torch.no_grad():
        assert torch.equal(vae.decode_latents(latents), again.decode_latents(latents))


def test_statistics_bring_latents_to_unit_scale_and_back() -> None:
    plain = TemporalAutoencoderKL(4, (8, 16), norm_num_groups=4)
    scaled = TemporalAutoencoderKL(
        4, (8, 16), norm_num_groups=4, latents_mean=(1.0, 2.0, 3.0, 4.0), latents_std=(2.0,) * 4
    )
    scaled.load_state_dict(plain.state_dict())
    pixels = frames(1, 1, 3, 8, 8)
    with torch.no_grad():
        raw, unit = plain.encode_latents(pixels), scaled.encode_latents(pixels)
        assert torch.allclose(unit * 2 + torch.arange(1.0, 5).view(1, 1, 4, 1, 1), raw, atol=1e-5)
        assert torch.allclose(scaled.decode_latents(unit), plain.decode_latents(raw), atol=1e-5)
