"""The stage `scenery`, and the networks that learn from its sketches."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nuwaxl.config import ConfigError
from nuwaxl.data.latents import LatentStrips, encode_strips
from nuwaxl.data.strips import StripsConfig
from nuwaxl.models.autoencoder import TemporalAutoencoderKL
from nuwaxl.models.mask_unet3d import MaskUNet3D
from nuwaxl.models.scenery import SceneryModel
from nuwaxl.toon.scenes import ACTIONS
from nuwaxl.training.clips import Clips, ClipsTraining
from nuwaxl.training.diffusion import DiffusionStage, DiffusionTraining, UNetConfig
from nuwaxl.training.loop import LoopConfig, train
from nuwaxl.training.scenery import SceneryConfig, SceneryStage, SceneryTraining

SMALL = SceneryConfig(channels=16, hidden_dim=8, reader_channels=8)
NETWORK = UNetConfig(
    block_out_channels=(8, 16),
    attention_head_dim=8,
    norm_num_groups=4,
    cross_attention_dim=8,
)


@pytest.fixture(scope="module")
def strips(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Frames of one dog in the meadow; a caption's embedding tells nothing but its number."""
    folder = tmp_path_factory.mktemp("strips")
    torch.manual_seed(0)
    vae = TemporalAutoencoderKL(
        latent_channels=4, block_out_channels=(8, 8, 8), norm_num_groups=4, patch_size=4
    )
    config = StripsConfig(
        folder=str(folder),
        num_strips=4,
        strip_length=12,
        spacings=((1.0, 0.5, 1.0),),
        captions_per_scene=1,
        actors=("dog",),
        backgrounds=("meadow",),
    )

    def embed(prompts: Sequence[str]) -> Tensor:
        draws = [np.random.default_rng(len(p)).normal(size=(2, 8)) for p in prompts]
        return torch.tensor(np.stack(draws), dtype=torch.float32)

    encode_strips(config, vae, embed)
    return str(folder)


def loop(folder: Path, steps: int, **changes: Any) -> LoopConfig:
    settings: dict[str, Any] = {"max_steps": steps, "batch_size": 8, "mixed_precision": "no"}
    settings |= {"output_dir": str(folder), "warmup_steps": 1, "learning_rate": 5e-3}
    return LoopConfig(**settings | changes)


def test_strips_tell_where_the_camera_is(strips: str) -> None:
    part = LatentStrips([strips]).parts[0]
    camera, times = part["camera"], part["times"]
    assert camera.shape == times.shape
    assert 0 <= camera.min() <= camera.max() < 1
    passed = camera.diff(dim=1)
    speeds = (passed - passed.round()).abs() / times.diff(dim=1) * 452  # pixels per second
    same = part["captions"][:, 1:, 0] == part["captions"][:, :-1, 0]
    known = torch.tensor([action.speed for action in ACTIONS.values()])
    assert (speeds[same][:, None] - known).abs().min(dim=1).values.max() < 0.5


def test_strips_without_a_camera_have_none(strips: str, tmp_path: Path) -> None:
    """As those that were encoded before strips told it, and as those of prepared videos."""
    part = load_file(Path(strips) / "strips.safetensors")
    del part["camera"]
    save_file(part, tmp_path / "strips.safetensors")
    clips = LatentStrips([tmp_path]).clips(np.random.default_rng(0), 2, 3)
    assert clips["camera"].isnan().all()
    settings = json.loads((Path(strips) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"folder": str(tmp_path)}))
    config = SceneryTraining(strips={"old": StripsConfig(folder=str(tmp_path))}, model=SMALL)
    with pytest.raises(ConfigError, match="`strips` must hold frames whose camera is known"):
        SceneryStage(config)


def test_clips_without_prompt_are_not_told_the_camera(strips: str) -> None:
    plain = ClipsTraining(
        strips={"all": StripsConfig(folder=strips)},
        num_frames=((1.0, 3, 3),),
        prompt_dropout=0.0,
        camera_dropout=0.0,
    )
    without_prompt, without_camera = (
        replace(plain, prompt_dropout=1.0),
        replace(plain, camera_dropout=1.0),
    )
    for settings, told in ((without_prompt, 0), (without_camera, 0), (plain, 8)):
        camera = Clips(settings).draw(np.random.default_rng(0), 8)["camera"]
        assert (~camera.isnan()).all(dim=1).sum() == told


def test_scenery_then_global_goes_through_saved_folders(strips: str, tmp_path: Path) -> None:
    config = SceneryTraining(
        strips={"all": StripsConfig(folder=strips)},
        num_frames=((1.0, 2, 2),),
        model=SMALL,
        prompt_dropout=0.0,
        camera_dropout=0.0,
        loop=loop(tmp_path / "scenery", 150),
    )
    stage = SceneryStage(config)
    batch = stage.batch(10_000, 16)
    with torch.no_grad():
        _, before = stage.loss(stage.model, batch)
    train(stage, config.loop)
    with torch.no_grad():
        _, after = stage.loss(stage.model, batch)
    assert after["mse"] < 0.8 * before["mse"]
    assert after["speed_error"] < 0.5 * before["speed_error"]
    assert after["position_error"] < 0.5 * before["position_error"]

    folder = str(tmp_path / "scenery/model")
    saved = SceneryModel.from_pretrained(folder)
    network = DiffusionTraining(
        strips=config.strips,
        num_frames=((1.0, 4, 4),),
        model=NETWORK,
        scenery=folder,
        loop=loop(tmp_path / "global", 3, batch_size=2),
    )
    learned = DiffusionStage(network)
    drawn = learned.batch(0, 2)
    sketches = learned._sketches(drawn)
    assert sketches is not None
    with torch.no_grad():
        own = saved.sketch(drawn["embeds"].flatten(2).flatten(0, 1), drawn["camera"].flatten())
    assert torch.equal(sketches.flatten(0, 1), own)
    train(learned, network.loop)
    trained = MaskUNet3D.from_pretrained(tmp_path / "global/model")
    assert trained.sketch_share.weight.any()

    base = str(tmp_path / "global/model")
    with pytest.raises(ConfigError, match=re.escape("`scenery` must be a folder such as")):
        DiffusionStage(replace(network, base=base, scenery=""))
    saved.save_pretrained(tmp_path / "global/scenery")  # as in a checkpoint, beside the network
    assert DiffusionStage(replace(network, base=base, scenery="")).scenery is not None
    with pytest.raises(ConfigError, match=re.escape("`scenery` must be a folder such as")):
        DiffusionStage(replace(network, scenery=str(tmp_path)))
