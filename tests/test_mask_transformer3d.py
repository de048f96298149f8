import pytest
import torch
from tiny import PROMPT_DIM, tiny_transformer
from torch.utils.flop_counter import FlopCounterMode

from nuwaxl.data.strips import StripsConfig
from nuwaxl.models import MaskTransformer3D, MaskUNet3D
from nuwaxl.models.backbones import Backbone, load_backbone, with_time
from nuwaxl.training.diffusion import DiffusionTraining, chosen_network


def segment(frames: int = 3, height: int = 4, width: int = 6, batch: int = 2) -> dict:
    """What the networks read, with the first frame given."""
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


@pytest.mark.parametrize("patch_size", [1, 2])
@torch.no_grad()
def test_at_the_start_every_frame_is_what_the_image_network_makes_of_it(patch_size: int) -> None:
    image = tiny_transformer(temporal=False, patch_size=patch_size, num_prompt_tokens=2)
    inputs = segment()
    got = with_time(image).eval()(**inputs).sample
    assert got.std() > 0.1
    assert torch.equal(got, image(**inputs).sample)
    names = ("sample", "encoder_hidden_states")
    alone = image(timestep=inputs["timestep"], **{n: inputs[n][:, 1:2] for n in names}).sample
    torch.testing.assert_close(got[:, 1:2], alone)


def test_a_temporal_network_is_no_image_network() -> None:
    with pytest.raises(ValueError, match="temporal=False"):
        MaskTransformer3D.from_image(tiny_transformer())


@pytest.mark.parametrize("num_layers", [0, 2])
@torch.no_grad()
def test_a_new_network_predicts_nothing_and_its_blocks_change_nothing(num_layers: int) -> None:
    network, inputs = tiny_transformer(awake=False, num_layers=num_layers), segment()
    assert not network(**inputs).sample.any()
    torch.manual_seed(0)
    torch.nn.init.normal_(network.proj_out.weight)
    assert torch.equal(network(**inputs).sample, _without_blocks(network)(**inputs).sample)


def _without_blocks(network: MaskTransformer3D) -> MaskTransformer3D:
    shorter = tiny_transformer(awake=False, num_layers=0)
    shorter.load_state_dict(network.state_dict(), strict=False)
    return shorter


@pytest.mark.parametrize("name", ["frame_times", "given_latents", "conditioning_mask"])
@torch.no_grad()
def test_a_trained_network_heeds_times_and_given_frames(name: str) -> None:
    network, inputs = tiny_transformer(), segment()
    before = network(**inputs).sample
    changed = network(**(inputs | {name: inputs[name] * 1.5})).sample
    assert ((changed - before).abs().amax(dim=(2, 3, 4)) > 1e-4).all()


@torch.no_grad()
def test_frames_look_at_each_other_through_temporal_attention_alone() -> None:
    inputs, changed = segment(), segment()
    changed["sample"][0, 1] += 1
    for temporal, wanted in ((True, [True] * 3), (False, [False, True, False])):
        network = tiny_transformer(temporal=temporal)
        difference = network(**changed).sample - network(**inputs).sample
        assert (difference[0].abs().amax(dim=(1, 2, 3)) > 1e-5).tolist() == wanted
        assert not difference[1].any()


@torch.no_grad()
def test_each_frame_reads_its_own_prompt() -> None:
    network, inputs = tiny_transformer(temporal=False), segment()
    before = network(**inputs).sample
    inputs["encoder_hidden_states"][0, 1] += 1
    changed = (network(**inputs).sample - before).abs().amax(dim=(2, 3, 4)) > 0
    assert changed.tolist() == [[False, True, False], [False, False, False]]


@torch.no_grad()
def test_a_cell_knows_its_place_and_reads_every_other_cell() -> None:
    network, inputs = tiny_transformer(temporal=False, patch_size=1), segment()
    inputs["sample"] = torch.ones_like(inputs["sample"])
    cells = network(**inputs).sample[0, 0].flatten(1).T
    assert torch.pdist(cells).min() > 1e-4
    inputs["sample"][0, 0, :, 0, 0] += 1
    moved = network(**inputs).sample[0, 0].flatten(1).T - cells
    assert (moved.abs().amax(dim=1) > 1e-5).all()


@pytest.mark.parametrize("frames", [1, 2, 7])
@torch.no_grad()
def test_any_number_of_frames_will_do(frames: int) -> None:
    inputs = segment(frames)
    assert tiny_transformer()(**inputs).sample.shape == inputs["sample"].shape


@torch.no_grad()
def test_nothing_given_is_the_same_as_zeros() -> None:
    network, inputs = tiny_transformer(), segment()
    zeros = {k: torch.zeros_like(inputs.pop(k)) for k in ("given_latents", "conditioning_mask")}
    assert torch.equal(network(**inputs).sample, network(**inputs, **zeros, return_dict=False)[0])


@torch.no_grad()
def test_a_second_step_takes_from_the_cache_what_the_first_computed() -> None:
    network, inputs, cache = tiny_transformer(num_prompt_tokens=2), segment(), {}
    first = network(**inputs, cache=cache).sample
    kept = dict(cache)
    inputs |= {"sample": inputs["sample"] * 0.5, "timestep": torch.tensor(3)}
    assert torch.equal(network(**inputs, cache=cache).sample, network(**inputs).sample)
    assert kept.keys() == cache.keys()
    assert not torch.equal(first, network(**inputs).sample)


@torch.no_grad()
def test_half_precision_comes_close_to_full() -> None:
    network, inputs = tiny_transformer(), segment()
    wanted = network(**inputs).sample
    with torch.autocast("cpu", torch.bfloat16):
        got = network(**inputs).sample
    assert got.dtype == torch.bfloat16
    assert (got - wanted).abs().max() < 0.05 * wanted.abs().max()


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`patch_size` must be one of \(1, 2, 4\), got 3"):
        tiny_transformer(patch_size=3)
    with pytest.raises(ValueError, match="multiple of 4, got 1 x 6"):
        tiny_transformer(num_attention_heads=1, attention_head_dim=6)
    with pytest.raises(ValueError, match="multiples of `patch_size`"):
        tiny_transformer()(**segment(height=5))
    inputs = segment()
    del inputs["frame_times"]
    with pytest.raises(ValueError, match="frame_times"):
        tiny_transformer()(**inputs)


def gradients(network: MaskTransformer3D) -> dict[str, torch.Tensor | None]:
    network.train()
    network(**segment()).sample.square().mean().backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()}


def test_every_parameter_is_trained() -> None:
    network = tiny_transformer(num_prompt_tokens=2)
    assert [name for name, g in gradients(network).items() if g is None or not g.any()] == []


def test_gradient_checkpointing_changes_no_gradient() -> None:
    network, checkpointed = tiny_transformer(), tiny_transformer()
    checkpointed.enable_gradient_checkpointing()
    assert checkpointed.is_gradient_checkpointing
    wanted = gradients(network)
    for name, gradient in gradients(checkpointed).items():
        torch.testing.assert_close(gradient, wanted[name])


@torch.no_grad()
def test_a_saved_network_comes_back_bit_for_bit(tmp_path) -> None:
    network, inputs = tiny_transformer(), segment()
    network.save_pretrained(tmp_path)
    loaded = load_backbone(tmp_path)
    assert isinstance(loaded, MaskTransformer3D)
    state = loaded.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    torch.testing.assert_close(loaded.eval()(**inputs).sample, network(**inputs).sample)


def gflop(network: Backbone) -> float:
    """Of a forward pass over 16 frames of latents 32 x 8 x 8 with five prompt tokens each."""
    latents, prompts = torch.zeros(1, 16, 32, 8, 8), torch.zeros(1, 16, 5, 256)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(latents, 5, prompts, frame_times=torch.zeros(1, 16))
    return counter.get_total_flops() / 1e9


def test_by_default_both_backbones_take_as_many_operations() -> None:
    counts = {}
    with torch.device("meta"):
        for backbone in ("unet", "transformer"):
            config = DiffusionTraining(strips={"any": StripsConfig()}, backbone=backbone)
            network, sizes = chosen_network(config)
            sizes |= {"in_channels": 32, "out_channels": 32, "num_prompt_tokens": 5}
            counts[network] = gflop(network(**sizes))
    assert counts == {
        MaskUNet3D: pytest.approx(3.97, abs=0.01),
        MaskTransformer3D: pytest.approx(3.94, abs=0.01),
    }
