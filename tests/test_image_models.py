"""`nuwaxl init`: Stable Diffusion's own pictures at the start, and what does not fit."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, UNet2DConditionModel
from shell import Shell
from tiny import PROMPT_DIM, WORDS, tiny_tokenizer
from transformers import CLIPTextConfig, CLIPTextModel

from nuwaxl import LongVideoPipeline
from nuwaxl.denoising.text import PromptEncoder

CONFIGS = Path(__file__).parent.parent / "configs"
NOISE: dict[str, Any] = {
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1,
    "set_alpha_to_one": False,
}  # fmt: skip


def tiny_unet2d(version: int, **changes: Any) -> UNet2DConditionModel:
    torch.manual_seed(version)
    settings: dict[str, Any] = {
        "sample_size": 8, "block_out_channels": (8, 16, 16, 16), "layers_per_block": 1,
        "norm_num_groups": 4, "cross_attention_dim": PROMPT_DIM, "attention_head_dim": 4,
    }  # fmt: skip
    if version == 2:
        settings |= {"use_linear_projection": True, "attention_head_dim": [1, 2, 4, 4]}
    return UNet2DConditionModel(**(settings | changes)).eval()


def tiny_image_vae(channels: int = 4) -> AutoencoderKL:
    torch.manual_seed(3)
    two: Any = 2  # diffusers annotates these as tuples of one
    widths: Any = (4, 8)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * two, up_block_types=("UpDecoderBlock2D",) * two,
        block_out_channels=widths, norm_num_groups=2, latent_channels=channels,
    ).eval()  # fmt: skip


def tiny_clip(width: int = PROMPT_DIM) -> CLIPTextModel:
    torch.manual_seed(4)
    config = CLIPTextConfig(
        vocab_size=len(WORDS) + 4, hidden_size=width, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=16, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    return CLIPTextModel(config).eval()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `sd1` and `sd2`, whole pipelines as diffusers saves them."""
    base = tmp_path_factory.mktemp("models")
    for version in (1, 2):
        folder = base / f"sd{version}"
        tiny_unet2d(version).save_pretrained(folder / "unet")
        tiny_image_vae().save_pretrained(folder / "vae")
        tiny_clip().save_pretrained(folder / "text_encoder")
        tiny_tokenizer().save_pretrained(folder / "tokenizer")
        scheduler = (
            PNDMScheduler(skip_prk_steps=True, **NOISE)
            if version == 1
            else DDIMScheduler(prediction_type="v_prediction", clip_sample=False, **NOISE)
        )
        scheduler.save_pretrained(folder / "scheduler")
    return base


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell("", tmp_path, capsys)


@pytest.mark.parametrize("version", [1, 2])
@torch.no_grad()
def test_the_pipeline_starts_as_the_image_model_on_every_frame(
    version: int, models: Path, shell: Shell
) -> None:
    source = models / f"sd{version}"
    out = shell("init", "--unet2d", source, "--output", "model", "--segment-length", "4")
    assert out.startswith("wrote model: 16x16, runs of 4 frames, ")
    pipeline = LongVideoPipeline.from_pretrained("model")
    index = json.loads(Path("model/model_index.json").read_text())
    assert index["text_encoder"] == ["transformers", "CLIPTextModel"]

    words = PromptEncoder(pipeline.tokenizer, pipeline.text_encoder)(["a dog runs"])
    ids = tiny_tokenizer()("a dog runs", padding="max_length", return_tensors="pt")["input_ids"]
    assert torch.equal(words, tiny_clip()(ids).last_hidden_state)

    torch.manual_seed(0)
    latents, steps = torch.randn(2, 3, 4, 8, 8), torch.tensor([7, 900])
    prompts = words.expand(2, 3, *words.shape[1:]) * torch.arange(1.0, 7.0).view(2, 3, 1, 1)
    wanted = tiny_unet2d(version)(
        latents.flatten(0, 1), steps.repeat_interleave(3), prompts.flatten(0, 1)
    ).sample
    for role in ("global_unet", "local_unet"):
        made = getattr(pipeline, role)(
            latents, steps, prompts, frame_times=torch.arange(3.0).expand(2, -1) / 8,
            given_latents=latents, conditioning_mask=torch.tensor([[1.0, 0, 1], [0, 0, 0]]),
        ).sample  # fmt: skip
        assert torch.equal(made.flatten(0, 1), wanted)

    image_vae = tiny_image_vae()
    pictures: Any = image_vae.decode(latents.flatten(0, 1) / image_vae.config["scaling_factor"])
    torch.testing.assert_close(pipeline.vae.decode_latents(latents).flatten(0, 1), pictures.sample)

    assert type(pipeline.scheduler) is DDIMScheduler
    wanted_type = ("epsilon", "v_prediction")[version - 1]
    assert pipeline.scheduler.config["prediction_type"] == wanted_type
    torch.testing.assert_close(pipeline.scheduler.betas, DDIMScheduler(**NOISE).betas)
    assert pipeline.scheduler.config["steps_offset"] == 1
    assert not pipeline.scheduler.config["clip_sample"]

    if version == 1:
        return
    Path("out").mkdir()
    Path("model").rename("out/nuwa_xl_128")
    film = ("--prompt", "a dog", "--length", "5", "--steps", "1", "-o", "png", "--device", "cpu")
    config = CONFIGS / "nuwa_xl_128.yaml"
    out = shell("generate", "sampling.local_num_inference_steps=2", "--config", config, *film)
    assert "png: 5 frames" in out


def test_parts_may_come_from_several_places(models: Path, shell: Shell) -> None:
    one, two = models / "sd1", models / "sd2"
    argv = ("init", "--unet2d", two / "unet", "--output", "model")
    assert "`--vae` must be named" in shell(*argv, code=2)
    argv += ("--vae", one / "vae")
    assert "`--text-encoder` must be named" in shell(*argv, code=2)
    argv += ("--text-encoder", one / "text_encoder")
    assert "`--tokenizer` must be" in shell(*argv, code=2)
    argv += ("--tokenizer", one / "tokenizer")
    error = shell(*argv, code=2)
    assert "`--prediction-type` must be named, one of epsilon, v_prediction" in error
    assert not Path("model").exists()
    argv += ("--prediction-type", "v_prediction", "--size", "32x16", "--dtype", "float16")
    assert "32x16" in shell(*argv)
    index = json.loads(Path("model/model_index.json").read_text())
    assert (index["width"], index["height"]) == (32, 16)
    scheduler = json.loads(Path("model/scheduler/scheduler_config.json").read_text())
    assert scheduler["prediction_type"] == "v_prediction"
    assert scheduler["beta_end"] == 0.012
    assert "'model' exists; add --overwrite" in shell(*argv, code=2)
    shell(*argv, "--overwrite")
    assert {path.name for path in Path().iterdir()} == {"model"}
    # A U-Net of Stable Diffusion 1 alone predicts noise: there is no other kind.
    shell("init", "--unet2d", one / "unet", "--vae", one, "--text-encoder", one, "-o", "first")
    scheduler = json.loads(Path("first/scheduler/scheduler_config.json").read_text())
    assert scheduler["prediction_type"] == "epsilon"


def test_what_does_not_fit_is_said_before_any_weights_are_read(models: Path, shell: Shell) -> None:
    def refused(*changes: Any) -> str:
        return shell("init", "--output", "model", *changes, code=2)

    folder = Path("sd")
    shutil.copytree(models / "sd1", folder, ignore=shutil.ignore_patterns("*.safetensors"))
    assert "no folder 'nowhere'" in refused("--unet2d", "nowhere")
    assert "`--unet2d` must hold unet/config.json" in refused("--unet2d", folder / "scheduler")
    assert "`--unet2d` must be a UNet2DConditionModel" in refused("--unet2d", folder / "vae")
    assert "`--output`" in shell("init", "--unet2d", folder, "--output", folder, code=2)

    tiny_image_vae(8).save_config("vae8")
    error = refused("--unet2d", folder, "--vae", "vae8")
    assert "`--unet2d` must have in_channels=8, the VAE's latent_channels, got 4" in error
    tiny_clip(24).config.save_pretrained("clip24")
    shutil.copy(folder / "tokenizer/tokenizer_config.json", "clip24")
    error = refused("--unet2d", folder, "--text-encoder", "clip24")
    assert "cross_attention_dim=24, the text encoder's hidden_size, got 16" in error
    tiny_unet2d(1, class_embed_type="timestep").save_config("odd")
    error = refused("--unet2d", "odd", "--vae", folder, "--text-encoder", folder)
    assert "must be a Stable Diffusion 1.x or 2.x U-Net" in error
    assert "`--size` must be a multiple of 16" in refused("--unet2d", folder, "--size", "128x90")
    assert "`--size` must be WIDTHxHEIGHT" in refused("--unet2d", folder, "--size", "128")
    assert "`--prediction-type`" in refused("--unet2d", folder, "--prediction-type", "x")
    assert not Path("model").exists()


def test_what_the_hub_does_not_give_is_one_line(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    error = shell("init", "--unet2d", "org/none", "--output", "model", code=2)
    assert "'org/none' is neither a folder nor to be had from the hub" in error
