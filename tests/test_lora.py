"""LoRA: learned beside a frozen network, kept in a file for each role, part of every key."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_training import settings, strips, unet_stage  # noqa: F401 (a fixture)
from tiny import tiny_pipeline

from nuwaxl.cli import main
from nuwaxl.config import ConfigError
from nuwaxl.models.mask_unet3d import MaskUNet3D
from nuwaxl.models.prompt_adapter import PromptAdapter
from nuwaxl.pipelines.long_video import LongVideoPipeline
from nuwaxl.training.diffusion import LoraTraining
from nuwaxl.training.loop import train
from nuwaxl.training.main import read_training
from nuwaxl.video import probe

TARGETS = ("to_q", "to_v", "conv1")


@pytest.fixture(scope="module")
def tuned(strips: str, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """`base/`, and `lora/` with a file learned on it for each role."""
    folder = tmp_path_factory.mktemp("tuned")
    unet_stage(strips, folder).model.save_pretrained(folder / "base")
    for role in ("global_unet", "local_unet"):
        lora = LoraTraining(rank=2, targets=TARGETS, output=str(folder / "lora"), role=role)
        stage = unet_stage(strips, folder / role, base=str(folder / "base"), lora=lora)
        before = {name: value.clone() for name, value in stage.model.state_dict().items()}
        train(stage, settings(folder / role, 3, batch_size=2, learning_rate=1e-2, ema_decay=0.0))
        changed = {n for n, v in stage.model.state_dict().items() if not torch.equal(v, before[n])}
        assert changed
        assert all("lora" in name for name in changed)
    return folder


def pipeline_on(base: Path) -> LongVideoPipeline:
    """A pipeline with the tuned network in both roles, and prompts of its width."""
    pipeline = tiny_pipeline()
    pipeline.prompt_adapter = PromptAdapter(
        text_dim=12, dim=8, num_tokens=2, num_layers=1, heads=2, mlp_dim=16
    ).eval()
    for role in ("global_unet", "local_unet"):
        setattr(pipeline, role, MaskUNet3D.from_pretrained(base))
    return pipeline


def test_each_role_has_its_own_file_in_one_folder(tuned: Path) -> None:
    files = sorted(path.name for path in (tuned / "lora").iterdir())
    assert files == ["global_unet_lora.safetensors", "local_unet_lora.safetensors"]
    tensors = load_file(tuned / "lora/global_unet_lora.safetensors")
    assert all(name.startswith("global_unet.") for name in tensors)
    assert not list((tuned / "global_unet").glob("model/*"))


def test_a_loaded_lora_predicts_what_the_learned_one_did(
    strips: str,  # noqa: F811
    tuned: Path,
    tmp_path: Path,
) -> None:
    lora = LoraTraining(rank=2, targets=TARGETS, output=str(tmp_path / "lora"), role="local_unet")
    stage = unet_stage(strips, tmp_path, base=str(tuned / "base"), lora=lora)
    train(stage, settings(tmp_path, 2, batch_size=2, learning_rate=1e-2, ema_decay=0.0))
    pipeline = pipeline_on(tuned / "base")
    batch = stage.batch(0, 2)
    inputs = (batch["latents"], batch["timesteps"], batch["embeds"])

    def predict(unet: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return unet(*inputs, frame_times=batch["frame_times"], return_dict=False)[0]

    plain = predict(pipeline.local_unet)
    pipeline.load_lora_weights(tmp_path / "lora")
    stage.model.eval()
    assert not torch.allclose(predict(pipeline.local_unet), plain, atol=1e-4)
    assert torch.allclose(predict(pipeline.local_unet), predict(stage.model), atol=1e-5)
    assert torch.allclose(predict(pipeline.global_unet), plain, atol=1e-5)
    pipeline.unload_lora_weights()
    assert torch.allclose(predict(pipeline.local_unet), plain, atol=1e-5)


def test_a_lora_changes_every_key_the_same_way_in_every_precision_and_none_when_it_is_gone(
    tuned: Path,
) -> None:
    fingerprints = {}
    for dtype in (torch.float32, torch.bfloat16):
        pipeline = pipeline_on(tuned / "base")
        plain = pipeline.fingerprint
        pipeline.to(dtype)
        pipeline.load_lora_weights(tuned / "lora")
        fingerprints[dtype] = pipeline.fingerprint
        assert pipeline.fingerprint != plain
        pipeline.set_adapters(pipeline.get_active_adapters(), 0.5)
        assert pipeline.fingerprint not in (plain, fingerprints[dtype])
        pipeline.unload_lora_weights()
        assert pipeline.fingerprint == plain
    assert fingerprints[torch.float32] == fingerprints[torch.bfloat16]


def test_files_that_are_no_lora_of_ours_are_refused_in_one_line(
    tuned: Path, tmp_path: Path
) -> None:
    pipeline = pipeline_on(tuned / "base")
    with pytest.raises(ValueError, match="folder that holds some, got"):
        pipeline.load_lora_weights(tmp_path)
    save_file({"unet.conv.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"begin with global_unet or local_unet, got 'unet\.conv"):
        pipeline.load_lora_weights(tmp_path)
    wrong = {"local_unet.conv_in.lora_A.weight": torch.zeros(2, 9)}
    with pytest.raises(ValueError, match="does not fit this pipeline's `local_unet`"):
        pipeline.load_lora_weights(wrong)


def test_the_stage_says_the_role_and_the_bundled_network_is_the_base() -> None:
    config = read_training("local", None, ["strips={a: {}}", "lora.rank=2"])
    assert config.lora.role == "local_unet"
    assert Path(config.base).parts[-3:] == ("weights", "toon", "local_unet")
    with pytest.raises(ConfigError, match="got the stage image"):
        read_training("image", None, ["strips={a: {}}", "lora.rank=2"])
    with pytest.raises(ConfigError, match=r"`lora\.rank` must be 0"):
        read_training("local", None, ["strips={a: {}}", "lora.rank=-1"])


def test_generate_with_a_lora_makes_another_film_and_a_project_remembers_it(
    tuned: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    pipeline_on(tuned / "base").save_pretrained("model")
    film = ["generate", "--model", "model", "--steps", "2", "--dtype", "float32", "-p", "a dog"]
    lora = ["--lora", str(tuned / "lora")]
    assert main([*film, "--length", "5", "-o", "plain.mp4"]) == 0, capsys.readouterr().err
    assert main([*film, "--length", "5", "-o", "lora.mp4", *lora]) == 0
    assert Path("plain.mp4").read_bytes() != Path("lora.mp4").read_bytes()
    assert main([*film, "--length", "5", "--project", "p", *lora]) == 0
    capsys.readouterr()
    assert main(["generate", "--project", "p"]) == 0
    assert "will run 0 of" in capsys.readouterr().out
    assert main([*film, "--length", "5", "--project", "p"]) == 2
    assert "another `lora`" in capsys.readouterr().err
    assert probe("p/film.mp4").num_frames == 5
    assert main([*film, "--length", "5", "-o", "x.mp4", "--lora", "nowhere"]) == 2
    assert "`--lora` must be a .safetensors file" in capsys.readouterr().err
