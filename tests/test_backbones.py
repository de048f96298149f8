"""Either backbone in either role: films, training, assembling, LoRA."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shell import HERE, Shell, changed, runs_made, will_run
from tiny import tiny_pipeline, tiny_transformer, tiny_unet
from torch import Tensor

from nuwaxl import LongVideoPipeline
from nuwaxl.data.latents import encode_strips
from nuwaxl.data.strips import StripsConfig
from nuwaxl.models import MaskTransformer3D, MaskUNet3D, TemporalAutoencoderKL
from nuwaxl.models.backbones import load_backbone
from nuwaxl.parts.lora import add_lora
from nuwaxl.training.assemble import AssembleConfig, assemble
from nuwaxl.training.diffusion import (
    DiffusionStage,
    DiffusionTraining,
    LoraTraining,
    TransformerConfig,
    UNetConfig,
)
from nuwaxl.training.loop import LoopConfig, train

TINY = {"unet": tiny_unet, "transformer": tiny_transformer}
CLASSES = {"unet": "MaskUNet3D", "transformer": "MaskTransformer3D"}


@pytest.mark.parametrize("local_backbone", TINY)
@pytest.mark.parametrize("global_backbone", TINY)
def test_every_pair_of_backbones_makes_keeps_resumes_and_edits_a_film(
    global_backbone: str,
    local_backbone: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pipeline = tiny_pipeline(segment_length=4)
    pipeline.register_modules(
        global_unet=TINY[global_backbone](1), local_unet=TINY[local_backbone](2)
    )
    pipeline.save_pretrained(tmp_path / "checkpoint")
    index = json.loads((tmp_path / "checkpoint/model_index.json").read_text())
    assert index["global_unet"] == ["nuwaxl", CLASSES[global_backbone]]
    assert index["local_unet"] == ["nuwaxl", CLASSES[local_backbone]]

    monkeypatch.chdir(tmp_path)
    shell = Shell(str(tmp_path / "checkpoint"), tmp_path, capsys)
    out = shell.begin("--length", "24")
    num_runs = len(shell.segments())
    assert will_run(out) == runs_made(out) == num_runs
    before, old = shell.frames(), shell.segments()

    rows = [line.split("\t") for line in Path("film/segments.tsv").read_text().splitlines()[1:]]
    (Path("film") / max(rows, key=lambda row: int(row[0]))[7]).unlink()
    out = shell("generate", "--project", "film", *HERE)
    assert will_run(out) == runs_made(out) == 1
    # A product of another batch size may round otherwise, which moves a pixel by one level.
    again = shell.frames()
    assert np.abs(again.astype(int) - before).max() <= 1

    out = shell("edit", "film", "--at", "1s..2s", "--prompt", "a cat walks", *HERE)
    assert 0 < runs_made(out) == will_run(out) == len(shell.segments() - old) < num_runs
    assert changed(again, shell.frames()) == list(range(8, 16))


def test_latents_fit_the_coarser_of_both_backbones() -> None:
    pipeline = tiny_pipeline()
    pipeline.register_modules(
        global_unet=tiny_transformer(patch_size=4), local_unet=tiny_transformer(patch_size=1)
    )
    assert pipeline.latent_shape(16, 32) == (4, 4, 8)
    with pytest.raises(ValueError, match="`height` must be a multiple of 16 pixels"):
        pipeline.latent_shape(8, 16)


@pytest.fixture(scope="module")
def strips(tmp_path_factory: pytest.TempPathFactory) -> StripsConfig:
    """Three encoded stories, each caption a constant."""
    torch.manual_seed(0)
    vae = TemporalAutoencoderKL(
        latent_channels=4, block_out_channels=(8, 8, 8), norm_num_groups=4, patch_size=4
    )
    config = StripsConfig(
        folder=str(tmp_path_factory.mktemp("strips")),
        num_strips=3,
        strip_length=8,
        spacings=((1.0, 0.5, 2.0),),
        captions_per_scene=1,
    )

    def embed(prompts: Sequence[str]) -> Tensor:
        return torch.stack([torch.full((2, 8), len(prompt) / 50) for prompt in prompts])

    encode_strips(config, vae, embed)
    return config


def stage(strips: StripsConfig, folder: Path, steps: int, **changes: Any) -> DiffusionStage:
    loop = LoopConfig(
        output_dir=str(folder), max_steps=steps, batch_size=8, learning_rate=4e-3, warmup_steps=5,
        decay_fraction=0.0, mixed_precision="no", log_every=10, ema_decay=0.5,
    )  # fmt: skip
    values: dict = {
        "strips": {"all": strips},
        "backbone": "transformer",
        "model": UNetConfig(cross_attention_dim=8, num_prompt_tokens=2),
        "transformer": TransformerConfig(num_layers=2, num_attention_heads=2, attention_head_dim=8),
        "num_frames": ((1.0, 4, 4),),
        "loop": loop,
    }
    torch.manual_seed(0)
    return DiffusionStage(DiffusionTraining(**(values | changes)))


@torch.no_grad()
def mean_loss(stage: DiffusionStage) -> float:
    """Over 32 clips that training does not see, at noise levels evenly spread."""
    torch.manual_seed(1)
    return stage.loss(stage.model.eval(), stage.batch(10_000, 32))[0].item()


def test_a_transformer_learns_from_images_then_grows_and_learns_from_clips(
    strips: StripsConfig, tmp_path: Path
) -> None:
    image = stage(strips, tmp_path / "image", 50, temporal=False, num_frames=((1.0, 1, 1),))
    before = mean_loss(image)
    assert train(image, image.config.loop) == 50
    after = mean_loss(image)
    assert after < 0.6 * before

    base = str(tmp_path / "image/model")
    local = stage(strips, tmp_path / "local", 50, base=base, given={"ends": 1.0}, backbone="unet")
    assert isinstance(local.model, MaskTransformer3D)
    before = mean_loss(local)
    assert before < 1.5 * after
    train(local, local.config.loop)
    assert mean_loss(local) < 0.8 * before
    saved = load_backbone(tmp_path / "local/model")
    assert isinstance(saved, MaskTransformer3D)
    assert saved.config["temporal"]


def test_a_lora_changes_the_transformers_own_layers() -> None:
    network, targets = tiny_transformer(num_prompt_tokens=2), LoraTraining().targets
    add_lora(network, 2, targets)
    changed = {name.partition(".lora_")[0].rsplit(".")[-1] for name, _ in network.named_parameters()
               if ".lora_" in name}  # fmt: skip
    assert changed == {"to_qkv", "to_q", "to_kv", "out_proj", "ff_in", "ff_out", "prompt_proj"}


def test_assembling_takes_either_backbone(tmp_path: Path) -> None:
    parts = tiny_pipeline()
    parts.save_pretrained(tmp_path / "parts")
    tiny_transformer().save_pretrained(tmp_path / "global")
    parts.scheduler.save_pretrained(tmp_path / "global/scheduler")
    folders: dict[str, Any] = {
        name: str(tmp_path / "parts" / name)
        for name in ("vae", "prompt_adapter", "local_unet", "text_encoder", "tokenizer")
    }
    config = AssembleConfig(
        global_unet=str(tmp_path / "global"), output=str(tmp_path / "whole"), dtype="float32",
        height=16, width=16, **folders,
    )  # fmt: skip
    assemble(config)
    whole = LongVideoPipeline.from_pretrained(tmp_path / "whole")
    assert isinstance(whole.global_unet, MaskTransformer3D)
    assert isinstance(whole.local_unet, MaskUNet3D)
    with pytest.raises(ValueError, match="must hold a MaskUNet3D or a MaskTransformer3D"):
        load_backbone(tmp_path / "whole/vae")


def test_assembling_takes_the_networks_of_a_checkpoint(tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "parts")
    names = ("vae", "prompt_adapter", "global_unet", "local_unet", "text_encoder", "tokenizer")
    folders: dict[str, Any] = {name: str(tmp_path / "parts" / name) for name in names}
    sizes: dict[str, Any] = {"dtype": "float32", "height": 16, "width": 16}
    whole = assemble(AssembleConfig(output=str(tmp_path / "whole"), **sizes, **folders))
    assert whole.fingerprint == LongVideoPipeline.from_pretrained(tmp_path / "parts").fingerprint
    shutil.rmtree(tmp_path / "parts/scheduler")
    with pytest.raises(ValueError, match="`global_unet` must have a scheduler/"):
        AssembleConfig(**sizes, **folders)
