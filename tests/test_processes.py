"""Training on several processes: real ones, started by torch's launcher and joined by gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_training import settings
from tiny import tiny_text_encoder, tiny_tokenizer, tiny_vae

from nuwaxl.data.strips import StripsConfig
from nuwaxl.training.clips import ConditioningConfig
from nuwaxl.training.diffusion import DiffusionStage, DiffusionTraining, UNetConfig
from nuwaxl.training.loop import train

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {
    **os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
    "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/two_processes.py"), str(folder)],
        capture_output=True, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def seen(runs: Path, name: str, rank: int = 0) -> dict:
    return json.loads((runs / name / f"seen_{rank}.json").read_text())


def weights(runs: Path, name: str) -> dict:
    return torch.load(runs / name / "model" / "weights.pt")


def same(a: dict, b: dict, tolerance: float = 0.0) -> bool:
    """Whether two networks differ by rounding alone; Adam enlarges it at tiny gradients."""
    assert a.keys() == b.keys()
    worst = max((a[name] - b[name]).abs().max().item() for name in a)
    return worst <= tolerance


def test_two_processes_hold_the_same_weights_and_learn_what_one_does_with_the_doubled_batch(
    runs: Path,
) -> None:
    one, two = seen(runs, "one"), seen(runs, "two")
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert one["losses"][0] != pytest.approx(one["losses"][-1], abs=1e-3)
    assert two["weights"] == seen(runs, "two", 1)["weights"]
    assert same(weights(runs, "one"), weights(runs, "two"), 1e-3)


def test_only_the_first_process_reports(runs: Path) -> None:
    assert seen(runs, "two", 1)["losses"] == []
    rows = (runs / "two" / "log" / "log.jsonl").read_text().splitlines()
    assert [json.loads(row)["loss"] for row in rows] == seen(runs, "two")["losses"]


def test_two_processes_killed_and_resumed_end_with_the_weights_of_those_that_were_not(
    runs: Path,
) -> None:
    assert same(weights(runs, "two"), weights(runs, "two_killed"))
    assert seen(runs, "two_killed")["losses"] == seen(runs, "two")["losses"][1:]


def test_sharding_halves_what_each_process_holds_and_learns_the_same(runs: Path) -> None:
    whole, first, second = seen(runs, "two"), seen(runs, "fsdp"), seen(runs, "fsdp", 1)
    assert first["held"] + second["held"] == whole["held"]
    assert first["held"] == pytest.approx(whole["held"] / 2, rel=0.02)
    assert first["losses"] == pytest.approx(whole["losses"], abs=1e-5)
    assert same(weights(runs, "two"), weights(runs, "fsdp"), 1e-3)


def test_one_process_goes_on_from_the_checkpoint_of_two_that_were_killed(runs: Path) -> None:
    assert seen(runs, "small_killed")["losses"] == pytest.approx(
        seen(runs, "small")["losses"][1:], abs=1e-6
    )
    assert same(weights(runs, "small"), weights(runs, "small_killed"), 1e-6)


def test_a_checkpoint_of_the_other_sharding_is_refused_in_one_line(runs: Path) -> None:
    refused = (runs / "small" / "refused.txt").read_text()
    assert "was written with `loop.sharding=fsdp`: go on with that" in refused


def test_one_process_encodes_while_the_other_waits(runs: Path) -> None:
    assert (runs / "strips.txt").read_text() == "0"


def test_torchrun_on_a_cpu_trains_together_and_learns_what_one_process_that_accumulates_does(
    tmp_path: Path,
) -> None:
    """No variable tells accelerate to use the CPU, and no strips are there before."""
    tiny_vae().save_pretrained(tmp_path / "vae")
    tiny_text_encoder().save_pretrained(tmp_path / "text_encoder")
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "c.yaml").write_text(
        "conditioning: {vae: vae, text_encoder: text_encoder, tokenizer: tokenizer, "
        "prompt_adapter: ''}\n"
        "model: {block_out_channels: [8, 16], attention_head_dim: 4, norm_num_groups: 4, "
        "cross_attention_dim: 12}\n"
        "strips: {all: {folder: strips, num_strips: 2, strip_length: 6}}\n"
        "num_frames: [[1.0, 4, 4]]\n"
        "loop: {output_dir: two, max_steps: 3, batch_size: 2, learning_rate: 0.01, seed: 5, "
        "warmup_steps: 1, mixed_precision: 'no', log_every: 1}\n"
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, "-m", "nuwaxl", "train", "global", "c.yaml"],
        capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == [
        "step 1", "step 2", "step 3",
    ]  # fmt: skip
    torch.manual_seed(5)
    stage = DiffusionStage(
        DiffusionTraining(
            conditioning=ConditioningConfig(prompt_adapter=""),
            model=UNetConfig(
                block_out_channels=(8, 16), attention_head_dim=4, norm_num_groups=4,
                cross_attention_dim=12,
            ),
            strips={"all": StripsConfig(folder=str(tmp_path / "strips"))},
            num_frames=((1.0, 4, 4),),
            loop=settings(
                tmp_path / "one", 3, batch_size=2, learning_rate=0.01, seed=5, decay_fraction=0.2,
                ema_decay=0.999, gradient_accumulation_steps=2,
            ),
        )
    )  # fmt: skip
    train(stage, stage.config.loop)
    one, two = (
        [json.loads(row) for row in (tmp_path / name / "log/log.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    for name in ("loss", "mse", "learning_rate"):
        assert [row[name] for row in two] == pytest.approx([row[name] for row in one], abs=1e-5)
