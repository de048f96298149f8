"""Learning from prepared videos: what is drawn of them, encoded and trained on."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import moving, write_clip
from tiny import tiny_text_encoder, tiny_tokenizer, tiny_vae
from torch import Tensor

from nuwaxl.cli import main
from nuwaxl.config import ConfigError
from nuwaxl.data.frames import FramesConfig, frames_of
from nuwaxl.data.latents import LatentStrips, StripsConfig, encode_strips
from nuwaxl.data.prepared import PreparedDataset
from nuwaxl.models.mask_unet3d import MaskUNet3D
from nuwaxl.preparation.prepare import prepare
from nuwaxl.preparation.settings import PrepareConfig
from nuwaxl.training.clips import ConditioningConfig
from nuwaxl.training.diffusion import DiffusionStage, DiffusionTraining, UNetConfig
from nuwaxl.training.loop import LoopConfig, train


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A film of 40 s whose captions change at 20 s, and a short one without any."""
    base = tmp_path_factory.mktemp("dataset")
    write_clip(base / "v/film.mp4", moving(160, step=1), fps=4)
    (base / "v/film.json").write_text('["a dog runs", "a cat walks"]')
    write_clip(base / "v/short.mp4", moving(12, colour=3), fps=4)
    prepare(base / "v", base / "d", PrepareConfig(size=16, fps=4.0))
    return str(base / "d")


def test_every_moment_is_drawn_as_often_and_long_spans_from_long_videos(dataset: str) -> None:
    data = PreparedDataset(dataset)
    rng = np.random.default_rng(0)
    videos, starts = [], []
    for _ in range(600):
        video, frames = data.draw(rng, 5, 0.25)
        assert (np.diff(frames) == 1).all()
        videos.append(video)
        starts.append(frames[0] if video == 0 else 0)
    assert 0.01 < np.mean(np.array(videos) == 1) < 0.12  # 2 s of 41 s
    assert np.histogram(starts, 4, (0, 156))[0].min() > 80
    for _ in range(20):
        video, frames = data.draw(rng, 5, 9.0)
        assert video == 0
        assert data.times(0)[frames] == pytest.approx(data.times(0)[frames[0]] + 9 * np.arange(5))
    with pytest.raises(ValueError, match=r"longest lasts 39\.75 s"):
        data.draw(rng, 5, 10.5)


def test_gaps_keep_true_times_and_no_picture_twice(tmp_path: Path) -> None:
    still, moved = moving(40, step=0), moving(40, colour=5)
    write_clip(tmp_path / "v/a.mp4", [*moved[:16], *still, *moved[16:]])
    prepare(tmp_path / "v", tmp_path / "d", PrepareConfig(size=16))
    data = PreparedDataset(tmp_path / "d")
    assert data.videos[0].num_frames == 40
    assert data.times(0)[[15, 16]].tolist() == [1.875, 7.0]
    rng = np.random.default_rng(0)
    for _ in range(50):
        _, frames = data.draw(rng, 8, 1.0)
        assert (np.diff(frames) > 0).all()
        assert frames[-1] < 40


def embed(prompts: Sequence[str]) -> Tensor:
    return torch.stack([torch.full((2, 8), float(len(prompt))) for prompt in prompts])


def test_strips_of_videos_have_the_captions_of_their_frames(dataset: str, tmp_path: Path) -> None:
    config = StripsConfig(
        folder=str(tmp_path), dataset=dataset, num_strips=6, strip_length=8,
        spacings=((0.5, 0.25, 0.5), (0.5, 4.0, 400.0)),
    )  # fmt: skip
    encode_strips(config, tiny_vae(), embed)
    strips = LatentStrips([tmp_path])
    assert strips.parts[0]["latents"].shape == (6, 8, 4, 4, 4)
    assert not strips.parts[0]["actor"].any()
    prompts = json.loads((tmp_path / "prompts.json").read_text())
    assert set(prompts) == {"", "a dog runs", "a cat walks"}
    gaps = strips.parts[0]["times"].diff(dim=1)
    assert gaps.min() >= 0.24
    assert 4.0 <= gaps.max() <= 5.8  # not 400: the film lasts 40 s
    data, source = PreparedDataset(dataset), tiny_vae()
    wide = int(gaps[:, 0].argmax())
    captions = strips.parts[0]["captions"][wide, :, 0].tolist()
    told = [prompts[number] for number in captions]
    assert told == sorted(told, reverse=True)  # the dog, then the cat
    assert len(set(told)) == 2
    # The latents are those of the pictures at these times.
    starts = [
        start
        for start in range(160)
        for frames in [np.searchsorted(data.times(0), strips.parts[0]["times"][wide] + start / 4)]
        if frames.max() < 160
        and torch.allclose(
            encoded(source, data, frames), strips.parts[0]["latents"][wide].float(), atol=0.05
        )
    ]
    assert len(starts) >= 1


def encoded(vae: torch.nn.Module, data: PreparedDataset, frames: np.ndarray) -> Tensor:
    pictures = np.stack([data.picture(0, int(frame)) for frame in frames])
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        return vae.encode_latents(pixels)[0]  # pyright: ignore


def test_frames_of_a_dataset_depend_on_their_number_and_know_no_actor(dataset: str) -> None:
    frames = frames_of(FramesConfig(dataset=dataset, frames_per_clip=3, spacing=2.0), seed=1)
    clips, masks = frames.clips(4, 6)
    assert clips.shape == (6, 3, 16, 16, 3)
    assert not masks.any()
    assert np.array_equal(clips, frames.clips(4, 6)[0])
    assert not np.array_equal(clips, frames.clips(5, 6)[0])


def test_the_autoencoder_learns_from_videos_by_command(dataset: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        f"model: {{latent_channels: 4, block_out_channels: [8, 8], norm_num_groups: 4}}\n"
        f"data: {{dataset: '{dataset}'}}\nnum_statistics: 8\n"
        f"loop: {{output_dir: '{tmp_path}/out', batch_size: 4, max_steps: 16, log_every: 4,\n"
        f"  learning_rate: 0.005, warmup_steps: 1, mixed_precision: 'no'}}\n"
    )
    assert main(["train", "autoencoder", str(tmp_path / "c.yaml")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out/log/log.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]
    assert (tmp_path / "out/model/config.json").is_file()


def diffusion(dataset: str, folder: Path, **changes: object) -> DiffusionTraining:
    if not (folder / "vae").exists():
        tiny_vae().save_pretrained(folder / "vae")
        tiny_text_encoder().save_pretrained(folder / "text")
        tiny_tokenizer().save_pretrained(folder / "tokenizer")
    values = dict(
        conditioning=ConditioningConfig(
            vae=str(folder / "vae"), text_encoder=str(folder / "text"),
            tokenizer=str(folder / "tokenizer"), prompt_adapter="",
        ),
        model=UNetConfig(
            block_out_channels=(8, 16), attention_head_dim=4, norm_num_groups=4,
            cross_attention_dim=12,
        ),
        strips={"film": StripsConfig(
            folder=str(folder / "strips"), dataset=dataset, num_strips=4, strip_length=8,
            spacings=((1.0, 0.25, 5.0),),
        )},
        num_frames=((1.0, 4, 4),),
        loop=LoopConfig(
            output_dir=str(folder / "out"), max_steps=3, batch_size=2, mixed_precision="no"
        ),
    )  # fmt: skip
    return DiffusionTraining(**{**values, **changes})  # pyright: ignore[reportArgumentType]


def test_a_unet_learns_from_videos_and_the_text_encoders_own_words(
    dataset: str, tmp_path: Path
) -> None:
    stage = DiffusionStage(diffusion(dataset, tmp_path))
    batch = stage.batch(0, 2)
    assert batch["embeds"].shape == (2, 4, 16, 12)  # the tokenizer's full length, as it is sampled
    assert not batch["actor"].any()
    assert train(stage, stage.config.loop) == 3
    assert MaskUNet3D.from_pretrained(tmp_path / "out/model").config["cross_attention_dim"] == 12
    other = {"film": StripsConfig(folder=str(tmp_path / "strips"))}
    with pytest.raises(ConfigError, match=r"were encoded from .*, not from the toon world"):
        DiffusionStage(diffusion(dataset, tmp_path, strips=other))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"dataset": "nowhere"}, "`dataset` must be a folder that `nuwaxl prepare` wrote"),
        ({"spacings": ((1.0, 0.1, 1.0),)}, "`spacings` must begin at 0.25 s or more"),
        ({"spacings": ((1.0, 30.0, 40.0),)}, r"longest video of .*: 8 frames 30 to 40 s apart"),
    ],
)
def test_a_dataset_that_does_not_fit_is_refused_before_any_model_loads(
    dataset: str, tmp_path: Path, change: dict, line: str
) -> None:
    values = {"folder": str(tmp_path / "s"), "dataset": dataset, "strip_length": 8} | change
    config = diffusion(dataset, tmp_path, strips={"film": StripsConfig(**values)})
    (tmp_path / "vae/config.json").unlink()
    with pytest.raises(ConfigError, match=line):
        DiffusionStage(config)


def test_pictures_of_a_size_that_cannot_be_halved_are_refused(tmp_path: Path) -> None:
    write_clip(tmp_path / "v/a.mp4", moving(12))
    prepare(tmp_path / "v", tmp_path / "d", PrepareConfig(size=18))
    strips = {"a": StripsConfig(
        folder=str(tmp_path / "s"), dataset=str(tmp_path / "d"), spacings=((1.0, 0.125, 1.0),),
        strip_length=4,
    )}  # fmt: skip
    with pytest.raises(ConfigError, match="multiple of 4 for this autoencoder, got 18"):
        DiffusionStage(diffusion(str(tmp_path / "d"), tmp_path, strips=strips))


def test_actors_of_the_toon_world_do_not_go_with_a_dataset() -> None:
    with pytest.raises(ValueError, match=r"`data\.actors`"):
        FramesConfig(dataset="d", actors=("dog",))
    with pytest.raises(ValueError, match="`actors`"):
        StripsConfig(dataset="d", backgrounds=("beach",))
