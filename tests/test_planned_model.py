"""`nuwaxl plan --model`: what a model weighs and does, from sizes alone."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from shell import Shell
from tiny import tiny_pipeline
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import backbones
from nuwaxl.cli.app import app
from nuwaxl.cli.planned_model import Work, film_work, show_model, spell_flop
from nuwaxl.config import GenerateConfig, load_config
from nuwaxl.denoising.sampling import SamplingConfig
from nuwaxl.parts.costs import ModelCosts, PartCost
from nuwaxl.parts.sizes import ModelParts

PAGE = (Path(__file__).parent.parent / "docs" / "models.md").read_text()
CONFIGS = Path(__file__).parent.parent / "configs"


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell("", tmp_path, capsys)


def test_the_papers_size_is_counted_without_its_weights(shell: Shell) -> None:
    out = json.loads(shell("plan", "--model", CONFIGS / "nuwa_xl_128.yaml", "--json"))
    assert (out["num_frames"], out["depth"], out["runs"]) == (3376, 3, 241)
    assert out["expected_seconds"] is None
    model = out["model"]
    parameters = {part["name"]: part["parameters"] / 1e6 for part in model["parts"]}
    # Stable Diffusion 1.5's U-Net has 859.5 M, its VAE 83.7 M, CLIP's text encoder 123.1 M.
    assert parameters == {
        "global_unet": pytest.approx(997.5, abs=0.05),
        "local_unet": pytest.approx(997.5, abs=0.05),
        "vae": pytest.approx(98.1, abs=0.05),
        "text_encoder": pytest.approx(123.1, abs=0.05),
    }
    assert model["parts"][0]["bytes_float32"] == 2 * model["parts"][0]["bytes_float16"]
    assert model["flops_global"] == model["flops_local"] == pytest.approx(830e9, rel=0.01)
    work = model["work"]
    assert work["global_run"] == 2 * 50 * model["flops_global"]
    # 241 runs of 16 frames and 3,376 pictures.
    film = 241 * work["local_run"] + 3376 / 16 * model["flops_decode"]
    assert work["film"] == pytest.approx(film, rel=1e-3)
    # What the page says is what is printed.
    del model["work"]
    model["parts"] = tuple(PartCost(**part) for part in model["parts"])
    show_model(ModelCosts(**model), Work(**work))
    shown = shell.capsys.readouterr().out
    assert len(shown.splitlines()) == 7
    assert shown in PAGE


def test_the_page_of_models_names_what_there_is() -> None:
    commands: Any = typer.main.get_command(app)
    lines = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
             for line in block.splitlines()]  # fmt: skip
    benchmark, *lines = lines
    assert len(lines) == 3
    python, module, name, *words = shlex.split(benchmark)
    assert (python, module, name) == ("python", "-m", backbones.__name__)
    assert backbones.parse(["--smoke", *words]).minutes_per_stage == 9
    for line in lines:
        program, name, *words = shlex.split(line)
        known = {option for param in commands.commands[name].params for option in param.opts}
        assert program == "nuwaxl"
        assert {word for word in words if word.startswith("--")} <= known
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["video"].config["temporal"]


def test_both_sizes_of_the_paper_differ_in_pixels_alone() -> None:
    small, large = (
        load_config(GenerateConfig, CONFIGS / f"nuwa_xl_{size}.yaml") for size in (128, 256)
    )
    assert small.parts is not None
    assert large.parts is not None
    assert (small.parts.latent_shape, large.parts.latent_shape) == ((4, 16, 16), (4, 32, 32))
    assert small.parts.global_unet == large.parts.global_unet
    assert small.depth == large.depth == 3
    assert small.sampling == large.sampling


@torch.no_grad()
def test_a_folder_is_counted_as_the_networks_in_it_count(shell: Shell) -> None:
    pipeline = tiny_pipeline(segment_length=4)
    pipeline.save_pretrained("model")
    for weights in Path("model").rglob("*.safetensors"):
        weights.unlink()
    argv = ("plan", "--model", "model", "--length", "40")
    out = json.loads(shell(*argv, "--json"))
    counted = {part["name"]: part["parameters"] for part in out["model"]["parts"]}
    assert counted == {
        name: sum(weight.numel() for weight in getattr(pipeline, name).parameters())
        for name in ("global_unet", "local_unet", "vae", "text_encoder", "prompt_adapter")
    }
    with FlopCounterMode(display=False) as counter:
        pipeline.global_unet.requires_grad_(False)(
            torch.zeros(1, 4, 4, 4, 4), 5, torch.zeros(1, 4, 2, 16), frame_times=torch.zeros(1, 4)
        )
    # On the CPU in fp32 a fused kernel attends, which the counter does not see.
    assert 0 < counter.get_total_flops() <= out["model"]["flops_global"]
    text = shell(*argv)
    assert "global_unet     MaskUNet3D" in text
    assert "a run of 4 frames of 16x16: global " in text
    assert " s per full run" not in text
    assert " s per full run" in shell(*argv, "--seconds-per-run", "2")


def test_film_work_takes_each_levels_steps_and_guidance() -> None:
    costs = ModelCosts(
        (), 4, 16, 16, flops_global=100, flops_local=10, flops_decode=4, flops_prompt=0
    )
    sampling = SamplingConfig(num_inference_steps=6, guidance_scale=2.0)
    work = film_work(costs, sampling, [4, 12, 36], 28)
    assert (work.global_run, work.local_run) == (1200, 50)  # two of three local steps are guided
    assert work.film == 1200 + 3 * 50 + 9 * 50 + 7 * 4
    assert [spell_flop(x) for x in (8.296e11, 83e12, 2e19)] == ["830 GFLOP", "83 TFLOP", "20 EFLOP"]


def parts(**changes: Any) -> ModelParts:
    network = {
        "in_channels": 4, "out_channels": 4, "cross_attention_dim": 8, "block_out_channels": [8, 8],
    }  # fmt: skip
    values: dict[str, Any] = {
        "height": 16, "width": 16, "global_unet": network,
        "vae": {"latent_channels": 4, "block_out_channels": [8, 8]},
        "text_encoder": {"hidden_size": 8},
    }  # fmt: skip
    return ModelParts(**(values | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vae": {"latent_channels": 8, "block_out_channels": [8]}}, "in_channels=8, the VAE's"),
        ({"vae": {"latent_channels": 4}}, "`vae` must say its `block_out_channels`"),
        ({"text_encoder": {"hidden_size": 9}}, "cross_attention_dim=9, the text encoder's"),
        ({"prompt_adapter": {"text_dim": 9, "dim": 8}}, "must read texts of 8 numbers"),
        ({"prompt_adapter": {"text_dim": 8, "dim": 9}}, "the prompt adapter's dim, got 8"),
        ({"local_unet": {"in_channels": 5}}, "`local_unet` must have in_channels=4"),
        ({"height": 18}, "`height` must be a multiple of 4 pixels .* the next one is 20"),
        ({"segment_length": 1}, "`segment_length` must be 2 or more"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parts(**changes)


def test_a_transformer_needs_whole_patches() -> None:
    transformer = parts().global_unet | {"patch_size": 2, "block_out_channels": [8]}
    with pytest.raises(ValueError, match="`width` must be a multiple of 4"):
        parts(global_unet=transformer, width=6)


def test_bad_input_is_one_line(shell: Shell) -> None:
    paper = CONFIGS / "nuwa_xl_128.yaml"
    assert "sizes" not in shell("plan", "--model", "nowhere", "--length", "9", code=2)
    Path("plain.yaml").write_text("depth: 2\n")
    assert "with `parts`" in shell("plan", "--model", "plain.yaml", code=2)
    assert "name one" in shell("plan", "--model", paper, "--config", "plain.yaml", code=2)
    error = shell("plan", "--model", paper, "parts.vae.latent_channels=16", code=2)
    assert "`global_unet` must have in_channels=16" in error
    error = shell("plan", "--model", paper, "parts.global_unet.widths=3", code=2)
    assert "`global_unet` cannot be built: " in error
    error = shell("generate", "--config", paper, "--prompt", "a dog", code=2)
    assert "'out/nuwa_xl_128' is no folder" in error
