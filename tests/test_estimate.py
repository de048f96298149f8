"""Estimates of memory and work before training: closed forms, and real tensors beside fake ones."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from nuwaxl.cli import main
from nuwaxl.data.strips import StripsConfig
from nuwaxl.models.frame_estimator import FrameEstimator
from nuwaxl.training.clips import ConditioningConfig
from nuwaxl.training.diffusion import DiffusionTraining, LoraTraining, UNetConfig
from nuwaxl.training.estimate import Estimate, Step, _LiveBytes, estimate
from nuwaxl.training.estimator import EstimatorTraining
from nuwaxl.training.loop import LoopConfig
from nuwaxl.training.main import read_training
from nuwaxl.training.scenery import SceneryTraining
from nuwaxl.training.shapes import step_of


def tiny(vae: str, lora: LoraTraining | None = None, **loop: Any) -> DiffusionTraining:
    """Clips of eight frames; all folders but the autoencoder's are missing."""
    return DiffusionTraining(
        conditioning=ConditioningConfig(vae=vae, prompt_adapter=""),
        model=UNetConfig(
            block_out_channels=(8,), attention_head_dim=4, norm_num_groups=4,
            cross_attention_dim=8,
        ),
        strips={"all": StripsConfig(folder="none")},
        num_frames=((1.0, 8, 8),),
        lora=lora or LoraTraining(),
        loop=LoopConfig(batch_size=8, **loop),
    )  # fmt: skip


class Product(nn.Module):
    """One matrix of 64 x 64, and a part that FSDP puts together alone."""

    _no_split_modules = ("Linear",)

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(64, 64, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        """The rows times the matrix."""
        return self.one(rows)


STEP = Step(Product, lambda: ((torch.zeros(1000, 64),), {}), "1000 rows")


def test_memory_and_work_of_one_matrix_are_as_on_paper() -> None:
    needed = estimate(STEP, LoopConfig(mixed_precision="no", gradient_accumulation_steps=3))
    weights, rows = 4 * 64 * 64, 4 * 1000 * 64
    assert (needed.num_parameters, needed.num_learned) == (64 * 64, 64 * 64)
    assert (needed.weights, needed.gradients, needed.optimizer) == (weights, weights, 2 * weights)
    assert needed.averages == weights
    # Three batches, forward and backward for the weights; rows need no gradient.
    assert needed.flops == 3 * 2 * (2 * 1000 * 64 * 64)
    # The result and its square, then three of their size on the way back.
    assert needed.activations == pytest.approx(5 * rows, rel=0.1)


def test_sharding_divides_all_but_activations_and_what_is_put_together() -> None:
    whole = estimate(STEP, LoopConfig(mixed_precision="no"), 4)
    parts = estimate(STEP, LoopConfig(mixed_precision="no", sharding="fsdp"), 4)
    for name in ("weights", "gradients", "optimizer", "averages"):
        assert getattr(parts, name) == getattr(whole, name) // 4
    assert parts.activations == whole.activations
    assert (whole.gathered, parts.gathered) == (0, whole.weights)


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder that says how large latents are, and holds no weights."""
    tmp_path = tmp_path_factory.mktemp("vae")
    sizes = {"latent_channels": 4, "block_out_channels": [8, 8, 8], "patch_size": 4}
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    return str(tmp_path)


@pytest.fixture(scope="module")
def kept(vae: str) -> Estimate:
    """Of the tiny stage as it stands."""
    return estimate(step_of(tiny(vae)), tiny(vae).loop)


def test_fake_tensors_count_as_real_ones_do(vae: str, kept: Estimate) -> None:
    step = step_of(tiny(vae))
    model = step.build()
    arguments, named = step.inputs()
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    with FlopCounterMode(display=False) as flops, _LiveBytes() as live:
        with torch.autocast("cpu", torch.bfloat16):
            result = model(*arguments, **named)
            loss = result[0].float().square().mean()
        loss.backward()
    assert kept.flops == flops.get_total_flops()
    assert kept.activations == pytest.approx(live.most, rel=0.02)
    assert kept.num_parameters == sum(weight.numel() for weight in model.parameters())


def test_what_lives_at_once_is_counted_to_the_byte() -> None:
    """Eight blocks of three sines of 4000 bytes, with the product before and the sum after them."""

    def block(values: Tensor) -> Tensor:
        return values.sin().sin().sin()

    held = {}
    for again in (False, True):
        with FakeTensorMode():
            values = torch.zeros(1000, requires_grad=True)
            values.grad = torch.zeros(1000)
            with _LiveBytes() as live:
                result = values * 1
                for _ in range(8):
                    run = partial(checkpoint, block, use_reentrant=False) if again else block
                    result = run(result)
                held[again] = live.now
                result.sum().backward()
            assert live.now == 4000  # the result
    assert held == {False: 25 * 4000, True: 9 * 4000}


def test_checkpointing_gradients_costs_work_and_a_lora_spares_the_optimizer(
    vae: str, kept: Estimate
) -> None:
    def needed(config: DiffusionTraining) -> Estimate:
        return estimate(step_of(config), config.loop)

    again = needed(tiny(vae, gradient_checkpointing=True))
    assert 1.2 * kept.flops < again.flops < 1.4 * kept.flops
    lora = needed(tiny(vae, LoraTraining(rank=2, targets=("to_q", "to_v"))))
    assert lora.num_learned < 0.1 * kept.num_learned
    assert lora.optimizer == 2 * 4 * lora.num_learned


def test_a_dry_run_prints_and_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text("base: nowhere\n")
    settings = ["loop.batch_size=2", "loop.sharding=fsdp", "loop.max_steps=10"]
    argv = ["train", "autoencoder", "c.yaml", *settings, "--dry-run", "--processes", "2"]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "2 clips of 1 frames of 128 x 128; 2 processes, bf16" in out
    assert "gathered" in out
    assert "h for 10 steps, at best" in out
    assert "note: `base` 'nowhere' is not there: sizes are those of `model`" in out
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]
    assert main(["train", "local", "c.yaml", "strips={all: {}}", "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert "`conditioning.vae` must be a folder with a config.json" in error
    assert main(["train", "local", "c.yaml", "--processes", "2"]) == 2
    assert "`--processes` is for `--dry-run`" in capsys.readouterr().err


def test_the_stage_of_prompts_is_estimated_too() -> None:
    config = read_training("prompts", "configs/train/prompts.yaml", ["loop.batch_size=2"])
    needed = estimate(step_of(config), config.loop)
    assert needed.samples == "2 captions of 77 tokens"
    assert needed.num_learned == needed.num_parameters > 1_000_000
    assert needed.flops > 2 * 2 * 77 * needed.num_parameters / 2


def test_the_stages_of_mover_and_estimator_are_estimated_too(vae: str, tmp_path: Path) -> None:
    settings = [f"vae={vae}", "loop.batch_size=2", "model.channels=8"]
    config = read_training("mover", "configs/train/mover.yaml", settings)
    needed = estimate(step_of(config), config.loop)
    assert needed.samples == "2 latents of 4 x 8 x 8"
    assert needed.num_learned == needed.num_parameters
    plain = tiny(vae)
    config = EstimatorTraining(
        conditioning=plain.conditioning,
        strips=plain.strips,
        mover="none",
        loop=LoopConfig(batch_size=2),
    )
    step = step_of(config)
    assert step.notes == ("`mover` 'none' is not there: its sizes are the defaults",)
    needed = estimate(step, config.loop)
    assert needed.samples == "2 clips of 16 frames, latents of 4 x 8 x 8"
    assert needed.flops > 2 * 16 * 6 * needed.num_learned

    config = SceneryTraining(
        conditioning=plain.conditioning,
        strips=plain.strips,
        num_frames=((1.0, 2, 2),),
        loop=LoopConfig(batch_size=3),
    )
    needed = estimate(step_of(config), config.loop)
    assert needed.samples == "6 latents of 4 x 8 x 8"
    assert needed.num_learned == needed.num_parameters
    sketched = estimate(step_of(replace(plain, scenery="anywhere")), plain.loop)
    assert sketched.num_learned > estimate(step_of(plain), plain.loop).num_learned

    network = FrameEstimator(in_channels=4, prompt_dim=77 * 8)
    network.save_config(tmp_path)
    with_one = estimate(step_of(replace(plain, estimator=str(tmp_path))), plain.loop)
    kept = sum(weight.numel() for weight in network.parameters())
    assert with_one.num_parameters - with_one.num_learned == kept
