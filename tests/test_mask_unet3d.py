import itertools
import math

import pytest
import torch
from diffusers import UNet2DConditionModel
from tiny import PROMPT_DIM, tiny_unet

from nuwaxl.models import MaskUNet3D
from nuwaxl.models.blocks import FrameTimeEmbedding, TemporalConv


def stable_diffusion(version: int, **changes) -> UNet2DConditionModel:
    """A small U-Net of Stable Diffusion's shape: four levels, two layers in each."""
    torch.manual_seed(0)
    settings: dict = {
        "block_out_channels": (8, 16, 16, 16),
        "norm_num_groups": 4,
        "cross_attention_dim": PROMPT_DIM,
        "attention_head_dim": 4,
    }
    if version == 2:
        settings |= {"use_linear_projection": True, "attention_head_dim": [1, 2, 4, 4]}
    return UNet2DConditionModel(**(settings | changes)).eval()


def segment(frames: int = 3, height: int = 8, width: int = 8, batch: int = 2) -> dict:
    """What `MaskUNet3D` reads, with the first frame given."""
    torch.manual_seed(1)
    mask = torch.zeros(batch, frames)
    mask[:, 0] = 1
    sample = torch.randn(batch, frames, 4, height, width)
    return {
        "sample": sample,
        "timestep": torch.arange(batch) * 300 + 7,
        "encoder_hidden_states": torch.randn(batch, frames, 2, PROMPT_DIM),
        "frame_times": (torch.arange(frames) / 8).expand(batch, -1),
        "given_latents": sample * mask[:, :, None, None, None],
        "conditioning_mask": mask,
    }


@pytest.mark.parametrize(("height", "width"), [(8, 8), (12, 5)])
@pytest.mark.parametrize("version", [1, 2])
@torch.no_grad()
def test_at_the_start_every_frame_is_what_stable_diffusion_makes_of_it(version, height, width):
    unet2d = stable_diffusion(version)
    inputs = segment(height=height, width=width)
    wanted = unet2d(
        inputs["sample"].flatten(0, 1),
        inputs["timestep"].repeat_interleave(3),
        inputs["encoder_hidden_states"].flatten(0, 1),
    ).sample
    got = MaskUNet3D.from_unet2d(unet2d).eval()(**inputs).sample
    assert torch.equal(got.flatten(0, 1), wanted)


@torch.no_grad()
def test_at_the_start_every_frame_is_what_our_own_image_network_makes_of_it():
    image = tiny_unet(temporal=False)
    inputs = segment()
    got = MaskUNet3D.from_unet2d(image).eval()(**inputs).sample
    assert torch.equal(got, image(**inputs).sample)
    names = ("sample", "encoder_hidden_states")
    alone = image(timestep=inputs["timestep"], **{n: inputs[n][:, 1:2] for n in names}).sample
    torch.testing.assert_close(got[:, 1:2], alone)


@pytest.mark.parametrize(
    "changes",
    [
        {"addition_embed_type": "text_time", "addition_time_embed_dim": 4,
         "projection_class_embeddings_input_dim": 8},
        {"class_embed_type": "timestep"},
        {"down_block_types": ("DownBlock2D",) * 4},
    ],
)  # fmt: skip
def test_a_unet_with_parts_that_would_be_lost_is_refused(changes):
    with pytest.raises(ValueError, match="`unet2d` must"):
        MaskUNet3D.from_unet2d(stable_diffusion(1, **changes))


def test_a_temporal_network_is_no_image_network():
    with pytest.raises(ValueError, match="temporal=False"):
        MaskUNet3D.from_unet2d(tiny_unet())


def test_temporal_convolution_starts_as_identity_and_then_reaches_the_neighbours():
    conv = TemporalConv(4)
    hidden_states = torch.randn(10, 4, 2, 3)
    assert torch.equal(conv(hidden_states, 5), hidden_states)
    torch.nn.init.normal_(conv.weight)
    clip = hidden_states.view(2, 5, 4, 6).permute(0, 3, 2, 1).reshape(12, 4, 5)
    wanted = torch.nn.functional.conv1d(clip, conv.weight, conv.bias, padding=1)
    wanted = wanted.view(2, 6, 4, 5).permute(0, 3, 2, 1).reshape(10, 4, 2, 3)
    torch.testing.assert_close(conv(hidden_states, 5), wanted)


def test_spacings_from_a_24th_of_a_second_to_hours_are_told_apart():
    spacings = [1 / 24, 1 / 12, 1 / 8, 1, 15 / 8, 28, 225, 3600, 4 * 3600]
    features = [FrameTimeEmbedding.features(torch.arange(16.0)[None] * s) for s in spacings]
    for (_, a), (_, b) in itertools.combinations(enumerate(features), 2):
        assert (a - b).abs().amax(dim=-1).min() > 0.1
    for frames in features:
        distances = torch.cdist(frames[0], frames[0]) + torch.eye(16)
        assert distances.min() > 0.1, "two frames of a segment look alike"


def test_only_time_differences_matter():
    times = torch.tensor([[0.0, 1.0, 2.125, 3.0]])
    features = FrameTimeEmbedding.features(times)
    assert torch.equal(FrameTimeEmbedding.features(times + 1024), features)
    assert FrameTimeEmbedding.features(torch.tensor([[5.0]])).isfinite().all()


@pytest.mark.parametrize("name", ["frame_times", "given_latents", "conditioning_mask"])
@torch.no_grad()
def test_a_trained_network_heeds_times_and_given_frames(name):
    unet, inputs = tiny_unet(), segment()
    before = unet(**inputs).sample
    changed = unet(**(inputs | {name: inputs[name] * 1.5})).sample
    assert ((changed - before).abs().amax(dim=(2, 3, 4)) > 1e-4).all()


@torch.no_grad()
def test_each_frame_reads_its_own_prompt():
    unet, inputs = tiny_unet(awake=False), segment()
    before = unet(**inputs).sample
    inputs["encoder_hidden_states"][0, 1] += 1
    changed = (unet(**inputs).sample - before).abs().amax(dim=(2, 3, 4)) > 0
    assert changed.tolist() == [[False, True, False], [False, False, False]]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, ["down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1"]),
        ({"symmetric_injection": False}, ["down_blocks.0", "down_blocks.1", "mid_block"]),
        ({"multi_scale_injection": False}, ["down_blocks.0", "up_blocks.1"]),
        ({"temporal": False}, []),
    ],
)
def test_given_frames_enter_at_every_scale_unless_an_ablation_says_otherwise(changes, wanted):
    unet = tiny_unet(**changes)
    names = [name for name, _ in unet.named_modules() if name.endswith(".injection")]
    assert [name.removesuffix(".injection") for name in names] == wanted
    assert unet(**segment()).sample.isfinite().all()


@pytest.mark.parametrize("frames", [1, 2, 7])
@torch.no_grad()
def test_any_number_of_frames_will_do(frames):
    inputs = segment(frames)
    assert tiny_unet()(**inputs).sample.shape == inputs["sample"].shape


@torch.no_grad()
def test_nothing_given_is_the_same_as_zeros():
    unet, inputs = tiny_unet(), segment()
    zeros = {k: torch.zeros_like(inputs.pop(k)) for k in ("given_latents", "conditioning_mask")}
    assert torch.equal(unet(**inputs).sample, unet(**inputs, **zeros, return_dict=False)[0])


def test_a_temporal_network_asks_for_frame_times():
    inputs = segment()
    del inputs["frame_times"]
    with pytest.raises(ValueError, match="frame_times"):
        tiny_unet()(**inputs)


@pytest.mark.parametrize(
    "changes",
    [{"attention_levels": [True]}, {"attention_head_dim": [8]}, {"norm_num_groups": 3}],
)
def test_arguments_that_do_not_fit_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        tiny_unet(**changes)


def gradients(unet: MaskUNet3D) -> dict[str, torch.Tensor | None]:
    unet.train()
    unet(**segment()).sample.square().mean().backward()
    return {name: parameter.grad for name, parameter in unet.named_parameters()}


def test_every_parameter_is_trained():
    unloved = [n for n, g in gradients(tiny_unet()).items() if g is None or not g.any()]
    assert unloved == []


def test_gradient_checkpointing_changes_no_gradient():
    unet, checkpointed = tiny_unet(), tiny_unet()
    checkpointed.enable_gradient_checkpointing()
    wanted = gradients(unet)
    for name, gradient in gradients(checkpointed).items():
        torch.testing.assert_close(gradient, wanted[name])


@torch.no_grad()
def test_a_saved_network_comes_back_bit_for_bit(tmp_path):
    unet = tiny_unet()
    unet.save_pretrained(tmp_path)
    again = MaskUNet3D.from_pretrained(tmp_path, disable_mmap=True)
    assert torch.equal(again(**segment()).sample, unet(**segment()).sample)


@torch.no_grad()
def test_bfloat16_is_close_to_float32():
    unet, inputs = tiny_unet(), segment()
    wanted = unet(**inputs).sample
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = unet(**inputs).sample
    halves = {k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs.items()}
    for got in (under_autocast, unet.bfloat16()(**halves).sample):
        assert got.dtype == torch.bfloat16
        error = (got.float() - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()
        assert error < 0.05


@torch.no_grad()
def test_an_adapter_of_low_rank_can_be_added():
    peft = pytest.importorskip("peft")
    unet = tiny_unet()
    before = unet(**segment()).sample
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    unet.add_adapter(peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    assert not torch.allclose(unet(**segment()).sample, before)
    unet.disable_adapters()
    torch.testing.assert_close(unet(**segment()).sample, before)


def test_the_bundled_size_is_within_its_budget():
    with torch.device("meta"):
        count = sum(p.numel() for p in MaskUNet3D().parameters())
    assert math.isclose(count, 13.5e6, rel_tol=0.05)


def test_a_prompt_of_fixed_length_reaches_the_blocks_without_attention() -> None:
    torch.manual_seed(0)
    shape = {"block_out_channels": (8, 8), "attention_head_dim": 4, "norm_num_groups": 4}
    plain = MaskUNet3D(4, 4, cross_attention_dim=8, temporal=False, **shape)
    pooled = MaskUNet3D(4, 4, cross_attention_dim=8, temporal=False, num_prompt_tokens=2, **shape)
    missing, unexpected = pooled.load_state_dict(plain.state_dict(), strict=False)
    assert missing == ["prompt_proj.weight", "prompt_proj.bias"]
    assert unexpected == []
    sample, prompt = torch.randn(1, 1, 4, 4, 4), torch.randn(1, 1, 2, 8)
    with torch.no_grad():
        assert torch.equal(plain(sample, 5, prompt).sample, pooled(sample, 5, prompt).sample)
        pooled.prompt_proj.weight.normal_()
        assert not torch.allclose(plain(sample, 5, prompt).sample, pooled(sample, 5, prompt).sample)
