"""Training: exact resume, what is learned, what is given."""

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from nuwaxl.config import ConfigError
from nuwaxl.data.frames import FramesConfig, ToonFrames
from nuwaxl.data.latents import LatentStrips, StripsConfig, encode_strips
from nuwaxl.models.autoencoder import TemporalAutoencoderKL
from nuwaxl.models.mask_unet3d import MaskUNet3D
from nuwaxl.training.autoencoder import (
    AutoencoderModelConfig,
    AutoencoderStage,
    AutoencoderTraining,
)
from nuwaxl.training.clips import draw_given
from nuwaxl.training.diffusion import DiffusionStage, DiffusionTraining, NoiseConfig, UNetConfig
from nuwaxl.training.estimator import EstimatorConfig, EstimatorStage, EstimatorTraining
from nuwaxl.training.loop import LoopConfig, train
from nuwaxl.training.mover import MoverConfig, MoverStage, MoverTraining


class Line(nn.Module):
    """A stage and its model in one: fits y = 3 x + noise."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(1, 1)
        nn.init.zeros_(self.model.weight)
        nn.init.zeros_(self.model.bias)

    def batch(self, index: int, batch_size: int) -> dict[str, Tensor]:
        return {
            "x": torch.from_numpy(np.random.default_rng(index).normal(size=(batch_size, 1))).float()
        }

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        noise = 0.01 * torch.randn_like(batch["x"])
        return (model(batch["x"]) - 3 * batch["x"] - noise).square().mean(), {}

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(self.model.state_dict(), folder / "line.pt")


def settings(folder: Path, steps: int, **changes: object) -> LoopConfig:
    values = dict(
        output_dir=str(folder), max_steps=steps, batch_size=8, learning_rate=0.05, warmup_steps=1,
        decay_fraction=0.5, mixed_precision="no", log_every=1, ema_decay=0.9,
    )  # fmt: skip
    return LoopConfig(**{**values, **changes})  # pyright: ignore[reportArgumentType]


def test_a_run_stopped_and_resumed_equals_one_that_was_not(tmp_path: Path) -> None:
    whole, first, second = Line(), Line(), Line()
    train(whole, settings(tmp_path / "whole", 12))
    stopped = train(first, settings(tmp_path / "parts", 12, max_minutes=1e-9))
    assert 0 < stopped < 12
    assert train(second, settings(tmp_path / "parts", 12)) == 12
    a, b = (torch.load(tmp_path / name / "model/line.pt") for name in ("whole", "parts"))
    assert torch.equal(a["weight"], b["weight"])
    assert torch.equal(a["bias"], b["bias"])


def test_the_curve_is_written_as_json_lines_and_falls(tmp_path: Path) -> None:
    train(Line(), settings(tmp_path, 60, learning_rate=0.2))
    rows = [json.loads(line) for line in (tmp_path / "log/log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 61))
    assert rows[-1]["loss"] < 0.1 * rows[0]["loss"]


def test_learning_rate_warms_up_holds_and_falls_to_nothing() -> None:
    config = LoopConfig(max_steps=100, warmup_steps=10, decay_fraction=0.2, learning_rate=1.0)
    rates = [config.learning_rate_at(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[50] == rates[80] == 1.0
    assert rates[90] == pytest.approx(0.5)
    assert rates[100] == 0.0


@pytest.mark.parametrize(
    "change", [{"max_steps": 0}, {"batch_size": 0}, {"mixed_precision": "int8"}]
)
def test_settings_that_cannot_train_are_refused(change: dict) -> None:
    with pytest.raises(ValueError, match=f"loop.{next(iter(change))}"):
        LoopConfig(**change)


def test_frames_of_a_batch_depend_on_its_number_alone() -> None:
    frames = ToonFrames(FramesConfig(frames_per_clip=2), seed=4)
    a, mask = frames.clips(7, 3)
    frames.clips(8, 1)
    b, _ = frames.clips(7, 3)
    assert a.shape == (3, 2, 128, 128, 3)
    assert mask.shape == (3, 2, 128, 128)
    assert np.array_equal(a, b)
    assert not np.array_equal(a, frames.clips(8, 3)[0])
    assert 0.02 < (mask > 0.5).mean() < 0.5


def tiny_autoencoder(folder: Path, **changes: object) -> AutoencoderTraining:
    sizes = AutoencoderModelConfig(
        latent_channels=4, block_out_channels=(8, 8, 8), norm_num_groups=4, patch_size=4
    )
    values = dict(
        model=sizes, loop=settings(folder, 8, batch_size=2, learning_rate=5e-3), num_statistics=4
    )
    return AutoencoderTraining(**{**values, **changes})  # pyright: ignore[reportArgumentType]


def test_the_autoencoder_learns_and_stores_the_scale_of_its_latents(tmp_path: Path) -> None:
    stage = AutoencoderStage(tiny_autoencoder(tmp_path))
    train(stage, stage.config.loop)
    rows = [json.loads(line) for line in (tmp_path / "log/log.jsonl").read_text().splitlines()]
    assert rows[-1]["l1"] < rows[0]["l1"]
    vae = TemporalAutoencoderKL.from_pretrained(tmp_path / "model")
    frames = (
        torch.from_numpy(stage.frames.clips(5, 24)[0]).permute(0, 1, 4, 2, 3).float() / 127.5 - 1
    )
    with torch.no_grad():
        latents = vae.encode_latents(frames)
    assert latents.shape == (24, 1, 4, 8, 8)
    assert latents.std().item() == pytest.approx(1.0, abs=0.3)


def test_a_frozen_encoder_keeps_its_latents_while_the_decoder_learns(tmp_path: Path) -> None:
    base = AutoencoderStage(tiny_autoencoder(tmp_path / "base"))
    train(base, base.config.loop)
    frozen = AutoencoderStage(
        tiny_autoencoder(
            tmp_path / "decoder", base=str(tmp_path / "base/model"), train_encoder=False
        )
    )
    train(frozen, frozen.config.loop)
    before, after = (
        TemporalAutoencoderKL.from_pretrained(tmp_path / name / "model")
        for name in ("base", "decoder")
    )
    pixels = torch.rand(1, 2, 3, 32, 32)
    with torch.no_grad():
        latents = before.encode_latents(pixels)
        assert torch.equal(latents, after.encode_latents(pixels))
        assert not torch.allclose(before.decode_latents(latents), after.decode_latents(latents))


@pytest.fixture(scope="module")
def strips(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("strips")
    vae = TemporalAutoencoderKL(
        latent_channels=4, block_out_channels=(8, 8, 8), norm_num_groups=4, patch_size=4
    )
    config = StripsConfig(
        folder=str(folder),
        num_strips=3,
        strip_length=12,
        spacings=((1.0, 0.5, 2.0),),
        captions_per_scene=2,
    )

    def embed(prompts: Sequence[str]) -> Tensor:
        return torch.stack([torch.full((2, 8), float(len(prompt))) for prompt in prompts])

    encode_strips(config, vae, embed)
    return str(folder)


def test_clips_keep_the_times_and_captions_of_their_frames(strips: str) -> None:
    data = LatentStrips([strips, strips])
    clips = data.clips(np.random.default_rng(0), 6, 5)
    assert clips["latents"].shape == (6, 5, 4, 8, 8)
    assert clips["embeds"].shape == (6, 5, 2, 8)
    gaps = clips["frame_times"].diff(dim=1)
    assert torch.allclose(gaps, gaps[:, :1].expand_as(gaps), rtol=1e-4)
    assert gaps.min() >= 0.5
    assert (clips["frame_times"][:, 0] == 0).all()
    assert torch.equal(data.empty_prompt, torch.zeros(2, 8))
    prompts = json.loads((Path(strips) / "prompts.json").read_text())
    assert set(clips["embeds"][..., 0, 0].unique().tolist()) <= {
        float(len(prompt)) for prompt in prompts[1:]
    }


@pytest.mark.parametrize("frames", [2, 3, 16])
def test_given_frames_are_what_was_asked_for_and_never_all(frames: int) -> None:
    rng = np.random.default_rng(0)
    ends = draw_given(rng, {"ends": 1.0}, frames)
    assert ends[0] == 1
    assert frames == 2 or ends[-1] == 1
    assert ends[1:-1].sum() == 0
    assert draw_given(rng, {"none": 1.0}, frames).sum() == 0
    assert draw_given(rng, {"first": 1.0}, frames).tolist() == [1.0] + [0.0] * (frames - 1)
    assert all(0 < draw_given(rng, {"random": 1.0}, frames).sum() < frames for _ in range(50))


def unet_stage(strips: str, folder: Path, **changes: object) -> DiffusionStage:
    values = dict(
        strips={"all": StripsConfig(folder=strips)},
        model=UNetConfig(
            block_out_channels=(8, 16),
            attention_head_dim=4,
            norm_num_groups=4,
            cross_attention_dim=8,
        ),
        num_frames=((1.0, 4, 4),),
        loop=settings(folder, 3, batch_size=2, learning_rate=1e-3),
    )  # fmt: skip
    return DiffusionStage(DiffusionTraining(**{**values, **changes}))  # pyright: ignore[reportArgumentType]


def test_image_then_local_training_goes_through_saved_folders(strips: str, tmp_path: Path) -> None:
    image = unet_stage(strips, tmp_path / "image", temporal=False, num_frames=((1.0, 1, 1),))
    train(image, image.config.loop)
    local = unet_stage(
        strips, tmp_path / "local", base=str(tmp_path / "image/model"), given={"ends": 1.0}
    )
    batch = local.batch(0, 2)
    inputs = (batch["latents"], batch["timesteps"], batch["embeds"])
    with torch.no_grad():
        before = local.model(*inputs, frame_times=batch["frame_times"]).sample
        alone = image.model(
            *(
                x.flatten(0, 1).unsqueeze(1) if x.dim() > 1 else x.repeat_interleave(4)
                for x in inputs
            )
        )
    # The averaged weights were saved, the live ones are in `image.model`.
    saved = MaskUNet3D.from_pretrained(tmp_path / "image/model")
    with torch.no_grad():
        alone = saved(
            *(
                x.flatten(0, 1).unsqueeze(1) if x.dim() > 1 else x.repeat_interleave(4)
                for x in inputs
            )
        )
    assert torch.allclose(before.flatten(0, 1), alone.sample.squeeze(1), atol=1e-5)
    assert train(local, local.config.loop) == 3
    assert MaskUNet3D.from_pretrained(tmp_path / "local/model").config["temporal"]


def test_a_network_is_widened_once_and_learns_on(strips: str, tmp_path: Path) -> None:
    first = unet_stage(strips, tmp_path / "first")
    train(first, first.config.loop)
    options = {"base": str(tmp_path / "first/model"), "widen": (16, 16)}
    wide = unet_stage(strips, tmp_path / "wide", **options)
    assert wide.model.config["block_out_channels"] == [16, 16]
    train(wide, wide.config.loop)
    again = unet_stage(
        strips, tmp_path / "again", base=str(tmp_path / "wide/model"), widen=(16, 16)
    )
    saved = MaskUNet3D.from_pretrained(tmp_path / "wide/model")
    assert torch.equal(again.model.conv_in.weight, saved.conv_in.weight)
    with pytest.raises(ConfigError, match=r"`widen`: .* multiples of \[8, 16\]"):
        unet_stage(strips, tmp_path / "other", base=options["base"], widen=(12, 16))


def test_a_base_that_is_no_network_is_one_line(strips: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^`base` must be a folder .*got '.*nowhere'"):
        unet_stage(strips, tmp_path, base=str(tmp_path / "nowhere"))


def test_the_loss_ignores_given_frames(strips: str, tmp_path: Path) -> None:
    stage = unet_stage(strips, tmp_path, given={"ends": 1.0}, actor_weight=0.0)
    batch = stage.batch(0, 2)

    class Shift(nn.Module):
        """Predicts the truth, but for the frames at `wrong`."""

        def __init__(self, wrong: list[int]):
            super().__init__()
            self.wrong = wrong

        def forward(
            self, sample: Tensor, timestep: Tensor, embeds: Tensor, **_: object
        ) -> tuple[Tensor]:
            torch.manual_seed(0)
            noise = torch.randn_like(batch["latents"])
            truth = stage.scheduler.get_velocity(batch["latents"], noise, timestep)
            truth[:, self.wrong] += 1.0
            return (truth,)

    torch.manual_seed(0)
    assert stage.loss(Shift([0, 3]), batch)[0].item() == pytest.approx(0.0, abs=1e-6)
    torch.manual_seed(0)
    assert stage.loss(Shift([1]), batch)[1]["mse"].item() == pytest.approx(0.5, abs=1e-4)


def test_min_snr_keeps_the_weight_of_pure_noise_for_v_and_cuts_clean_steps(
    strips: str, tmp_path: Path
) -> None:
    stage = unet_stage(strips, tmp_path)
    weight = stage._weight(torch.tensor([999, 500, 1]))
    assert weight[0] == 1.0
    assert weight[2] < 0.05
    article = unet_stage(
        strips, tmp_path, snr_gamma=0.0,
        noise=NoiseConfig(
            beta_schedule="linear", prediction_type="epsilon", rescale_betas_zero_snr=False
        ),
    )  # fmt: skip
    assert article._weight(torch.tensor([999, 1])).tolist() == [1.0, 1.0]


def test_frozen_parts_of_the_settings_are_checked() -> None:
    strips = {"all": StripsConfig()}
    with pytest.raises(ValueError, match="given"):
        DiffusionTraining(strips=strips, given={"middle": 1.0})
    with pytest.raises(ValueError, match="num_frames"):
        DiffusionTraining(strips=strips, num_frames=((1.0, 3, 2),))
    with pytest.raises(ValueError, match="strips"):
        DiffusionTraining()
    with pytest.raises(ValueError, match="spacings"):
        StripsConfig(spacings=((1.0, 2.0, 1.0),))


def test_mover_then_estimator_then_local_goes_through_saved_folders(
    strips: str, tmp_path: Path
) -> None:
    vae = TemporalAutoencoderKL(
        latent_channels=4, block_out_channels=(8, 8, 8), norm_num_groups=4, patch_size=4
    )
    vae.save_pretrained(tmp_path / "vae")
    mover = MoverStage(
        MoverTraining(
            vae=str(tmp_path / "vae"),
            model=MoverConfig(channels=8, fine_channels=2, upscale=2),
            num_pictures=6,
            loop=settings(tmp_path / "mover", 2),
        )
    )
    assert mover.batch(0, 3)["moved"].shape == (3, 4, 8, 8)
    train(mover, mover.config.loop)
    steps = settings(tmp_path / "estimator", 30, batch_size=4, learning_rate=5e-3)
    config = EstimatorTraining(
        strips={"all": StripsConfig(folder=strips)},
        num_frames=((1.0, 4, 4),),
        given={"ends": 0.7, "none": 0.3},
        model=EstimatorConfig(channels=8, num_blocks=1, num_motions=1),
        mover=str(tmp_path / "mover/model"),
        prompt_dropout=0.0,
        loop=steps,
    )
    estimator = EstimatorStage(config)
    start, batch = copy.deepcopy(estimator.model), estimator.batch(10_000, 8)
    for name, weight in load_file(
        tmp_path / "mover/model/diffusion_pytorch_model.safetensors"
    ).items():
        assert torch.equal(start.latent_mover.get_parameter(name), weight)
    train(estimator, steps)
    with torch.no_grad():
        before, after = (estimator.loss(model, batch)[0] for model in (start, estimator.model))
    assert after < before
    again = EstimatorStage(replace(config, base=str(tmp_path / "estimator/model")))
    averaged = load_file(tmp_path / "estimator/model/diffusion_pytorch_model.safetensors")
    assert torch.equal(again.model.velocity.bias, averaged["velocity.bias"])

    local = unet_stage(
        strips, tmp_path / "local", given={"ends": 1.0}, estimator=str(tmp_path / "estimator/model")
    )
    train(local, local.config.loop)
    network = MaskUNet3D.from_pretrained(tmp_path / "local/model")
    for name, weight in network.frame_estimator.state_dict().items():
        assert torch.equal(weight, averaged[name]), name  # it stays as it is
    assert network.estimate_share.weight.any()
    with pytest.raises(ConfigError, match="`estimator` must be a folder such as"):
        unet_stage(strips, tmp_path / "other", estimator=str(tmp_path / "vae"))


def test_the_mover_is_compared_only_where_the_old_picture_is_seen(tmp_path: Path) -> None:
    TemporalAutoencoderKL(
        latent_channels=4, block_out_channels=(8, 8, 8), norm_num_groups=4, patch_size=4
    ).save_pretrained(tmp_path / "vae")
    model, loop = MoverConfig(channels=8, fine_channels=2, upscale=2), settings(tmp_path, 1)
    stage = MoverStage(MoverTraining(str(tmp_path / "vae"), model=model, num_pictures=2, loop=loop))
    latents = torch.zeros(1, 4, 8, 8)
    batch = {"still": latents, "moved": latents.clone(), "motion": torch.tensor([[0.5, 0.0]])}
    before, _ = stage.loss(stage.model, batch)
    batch["moved"][..., 6:] = 100.0  # the quarter that came in from the right
    assert torch.equal(stage.loss(stage.model, batch)[0], before)
    batch["moved"][..., 5] = 100.0
    loss, beside = stage.loss(stage.model, batch)
    assert loss > before + 1
    assert beside["unmoved"] == beside["bilinear"] == pytest.approx(100**2 / 6)


@pytest.mark.parametrize(
    "change", [{"num_pictures": 0}, {"furthest": (1.5, 0.1)}, {"shares": (0.5, -0.1)}]
)
def test_motions_that_show_nothing_are_refused(change: dict) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(change))}` must be"):
        MoverTraining(**change)
