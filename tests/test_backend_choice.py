"""What pretrained models cannot do is one line, before anything is downloaded or loaded."""

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_backends import SIZE, save_tiny

from nuwaxl.backends import checkpoints
from nuwaxl.backends.catalogue import BACKENDS, RoleChoice, choose_backends
from nuwaxl.backends.checkpoints import find_checkpoint, pinned
from nuwaxl.backends.loading import quantization
from nuwaxl.cli import main
from nuwaxl.cli.app import app
from nuwaxl.denoising.sampling import SamplingConfig
from nuwaxl.pictures.codecs import PixelCodec
from nuwaxl.projects.state import FilmState, from_json, to_json
from nuwaxl.stores.store import EightBitStore, MemoryStore
from nuwaxl.tensors.unit_scale import to_eight_bit, to_unit_scale
from nuwaxl.tree.storyline import Storyline

DOG = ("generate", "--prompt", "a dog", "--length", "20")
TINY = ("--size", f"{SIZE}x{SIZE}", "--segment-length", "9", "--device", "cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checkpoints without their weights: whoever loads one finds nothing."""
    root = tmp_path_factory.mktemp("checkpoints")
    found = {
        "wan-vace": save_tiny("wan-vace", root / "vace"),
        "ti2v": save_tiny("wan-flf", root / "ti2v", expand_timesteps=True),
        "i2v": save_tiny("wan-flf-clip", root / "i2v", pos_embed_seq_len=None),
        "ltx": save_tiny("ltx", root / "ltx"),
    }
    for weights in root.rglob("*.safetensors"):
        weights.unlink()
    (root / "one").mkdir()
    Image.new("RGB", (8, 8)).save(root / "one" / "a.png")
    (root / "seven").mkdir()
    for at in range(7):
        Image.new("RGB", (8, 8)).save(root / "seven" / f"{at}.png")
    return found | {name: str(root / name) for name in ("one", "seven")}


CASES: dict[str, tuple[str, list[str]]] = {
    "a name with a slip": (
        "--model wan-vase",
        ["`--model`", "no folder; did you mean `wan-vace`?"],
    ),
    "another name with a slip": ("--local-model wanflf", ["`global_model` is missing"]),
    "a role that is not there": (
        "--global-model wan-vace --local-model wan",
        ["`--local-model` must be one of wan-vace, wan-flf, ltx, got 'wan'"],
    ),
    "local only": ("--model wan-flf", ["`--model` wan-flf cannot make the global runs"]),
    "global only": (
        "--model wan-vace --local-model stills=x",
        ["`--local-model` stills cannot make the local runs"],
    ),
    "one role only": ("--local-model wan-flf", ["`global_model` is missing"]),
    "a folder of ours with a role": (
        "--model . --local-model wan-flf",
        ["`--model` must be a pretrained model beside"],
    ),
    "stills of nobody": (
        "--global-model stills --local-model wan-flf",
        ["`--global-model` stills has no weights of its own"],
    ),
    "weights of nobody": (
        "--checkpoint x --global-model stills=x --local-model ltx",
        ["`--checkpoint` names the weights of `model`"],
    ),
    "weights without a model": ("--checkpoint x", ["`--checkpoint` is for pretrained models"]),
    "a size of ours": ("--size 64x64", ["`--size` is for pretrained models"]),
    "a size that is none": ("--model ltx --size 64", ["`--size` must be WIDTHxHEIGHT"]),
    "a size off the grid": (
        "--model ltx --size 500x300",
        ["`--size` must be multiples of 32 pixels for ltx, such as 512x288, got 500x300"],
    ),
    "frames off Wan's grid": (
        "--model wan-vace --segment-length 80",
        ["`--segment-length` must be a multiple of 4 plus 1, such as 77 or 81, got 80"],
    ),
    "frames off the grid of LTX": (
        "--model ltx --segment-length 81 --local-model wan-vace --global-model ltx=x --model ltx "
        "--segment-length 77",
        ["`--segment-length` must be a multiple of 8 plus 1, such as 73 or 81, got 77"],
    ),
    "too few levels": ("--model wan-vace {tiny} --depth 1", ["`--depth` must be at least 2"]),
    "too many levels": ("--model wan-vace {tiny} --depth 4", ["`--depth` must be less than 4"]),
    "bits": ("--model ltx --quantize 3bit", ["`--quantize` must be one of 4bit, 8bit"]),
    "bits on a CPU": (
        "--model ltx --quantize 4bit --device cpu",
        ["`--quantize` 4bit needs an accelerator"],
    ),
    "an offload that is none": (
        "--model ltx --offload disk --device cpu",
        ["`--offload` must be one of model, sequential, group, got 'disk'"],
    ),
    "offload on a CPU": (
        "--model ltx --offload model --device cpu",
        ["`--offload` model keeps weights in memory", "runs on the CPU"],
    ),
    "no folder, no id": (
        "--model ltx --checkpoint ./there {tiny}",
        ["`checkpoint` of ltx must be a folder or an id of the hub such as Lightricks/"],
    ),
    "an id without a network": (
        "--model ltx --checkpoint no-such/model {tiny}",
        ["'no-such/model' is neither a folder nor to be had from the hub"],
    ),
    "a folder of something else": (
        "--model ltx --checkpoint {seven} {tiny}",
        ["must be a folder with a model_index.json"],
    ),
    "weights of another kind": (
        "--model ltx --checkpoint {wan-vace} {tiny}",
        ["must hold a LTXConditionPipeline", "holds a WanVACEPipeline"],
    ),
    "stills by a video model": (
        "--global-model stills={wan-vace} --local-model wan-vace={wan-vace} {tiny}",
        ["`checkpoint` of stills must make pictures from text", "holds a WanVACEPipeline"],
    ),
    "a model that ignores its last frame": (
        "--global-model wan-vace={wan-vace} --local-model wan-flf={ti2v} {tiny}",
        ["must know a last frame", "ignores it (expand_timesteps, as Wan 2.2 TI2V-5B)"],
    ),
    "a model that reads one picture": (
        "--global-model wan-vace={wan-vace} --local-model wan-flf={i2v} {tiny}",
        ["must know a last frame", "reads one picture only"],
    ),
    "one picture": (
        "--global-model pictures={one} --local-model ltx={ltx} {tiny}",
        ["a folder with 2 pictures or more", "got 1"],
    ),
    "no pictures": (
        "--global-model pictures=nowhere --local-model ltx={ltx} {tiny}",
        ["must name a folder of pictures, got 'nowhere'"],
    ),
    "pictures that do not end with the film": (
        "--global-model pictures={seven} --local-model wan-vace={wan-vace} {tiny}",
        ["`--length` must let the 7 pictures lie evenly", "next such length is 25 frames, got 20"],
    ),
    "a batch": (
        "--model wan-vace --checkpoint {wan-vace} {tiny} --batch-size 4",
        ["`batch_size` must be 1 for wan-vace", "got 4"],
    ),
    "a LoRA": ("--model wan-vace {tiny} --lora x", ["`--lora` is for checkpoints of ours"]),
    "a scheduler": (
        "--model wan-vace --checkpoint {wan-vace} {tiny} --scheduler euler",
        ["`scheduler` must be left out for wan-vace", "got 'euler'"],
    ),
    "guidance rescaled": (
        "--model wan-vace --checkpoint {wan-vace} {tiny} sampling.guidance_rescale=0.5",
        ["`guidance_rescale` must be 0 for wan-vace, got 0.5"],
    ),
    "a story too long to be read": (
        "--model ltx --checkpoint {ltx} {tiny} --prompt " + "dogs" * 70,
        ["must be at most 256 tokens for a run of ltx", "got 295"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_is_one_line(
    folders: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    said, lines = CASES[case]
    argv = said.format(tiny=" ".join(TINY), **folders).split()
    assert main([*DOG, *argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith("nuwaxl: error: ")
    assert error.count("\n") == 1
    assert all(line in error for line in lines), error
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(
    folders: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "find_spec", lambda name: None)
    argv = (*DOG, "--model", "wan-vace", "--checkpoint", folders["wan-vace"], *TINY)
    assert main(list(argv)) == 2
    error = capsys.readouterr().err
    assert "needs the package ftfy: pip install 'nuwaxl[backends]'" in error


def test_every_command_of_the_page_is_one_that_the_program_knows() -> None:
    page = Path(__file__).parent.parent / "docs" / "backends.md"
    lines = [line for line in page.read_text().splitlines() if line.startswith("nuwaxl ")]
    assert len(lines) > 5
    for line in lines:
        _, command, *argv = shlex.split(line)
        known = typer.main.get_command(app)
        known.commands[command].make_context(command, argv)  # pyright: ignore[reportAttributeAccessIssue]


# ---- Choices --------------------------------------------------------------------------------


def choice(**said):
    empty = dict.fromkeys(
        ("model", "checkpoint", "global_model", "local_model", "size", "segment_length", "quantize")
    )
    return choose_backends(**(empty | said))


def test_nothing_said_of_pretrained_models_is_none_of_them() -> None:
    assert choice() is None
    assert choice(model="out/checkpoint") is None


def test_one_name_serves_both_roles_with_its_usual_weights() -> None:
    found = choice(model="wan-vace")
    assert found is not None
    assert str(found.global_role) == str(found.local_role)
    assert str(found.local_role) == "wan-vace=Wan-AI/Wan2.1-VACE-1.3B-diffusers"
    assert (found.width, found.height, found.segment_length, found.fps) == (832, 480, 81, 16)


def test_two_models_share_a_size_and_a_length_that_both_can_have() -> None:
    found = choice(global_model="wan-vace", local_model="ltx")
    assert found is not None
    assert (found.width, found.height, found.segment_length, found.fps) == (704, 512, 121, 25)
    other = choice(global_model="ltx", local_model="wan-flf", size="832x480")
    assert other is not None
    assert other.segment_length == 81


def test_steps_said_for_keyframes_hold_below_and_unsaid_ones_are_the_models() -> None:
    found = choice(global_model="stills=x", local_model="ltx")
    assert found is not None
    usual = found.with_local_defaults(SamplingConfig(30, 5.0))
    assert usual.for_level(1)[:2] == (40, 3.0)
    said = found.with_local_defaults(SamplingConfig(12, 5.0, local_guidance_scale=2.0))
    assert said.for_level(1)[:2] == (12, 2.0)


def test_every_default_length_and_size_is_one_that_the_model_can_have() -> None:
    for backend in BACKENDS.values():
        if "local" in backend.roles:
            found = choice(global_model="wan-vace", local_model=backend.name)
            assert found is not None
            assert found.timeline(1000).num_levels == 2
            assert (backend.most - 1) % backend.step == 0


# ---- Checkpoints ----------------------------------------------------------------------------


def test_a_folders_fingerprint_is_its_content_wherever_it_lies(tmp_path: Path) -> None:
    first = Path(save_tiny("ltx", tmp_path / "first"))
    role = RoleChoice(BACKENDS["ltx"], str(first))
    before = find_checkpoint(role).fingerprint
    second = Path(shutil.copytree(first, tmp_path / "second"))
    moved = RoleChoice(BACKENDS["ltx"], str(second))
    assert find_checkpoint(moved).fingerprint == before
    file = next((second / "transformer").glob("*.safetensors"))
    weights = load_file(file)
    weights["proj_in.bias"] = weights["proj_in.bias"] + 1
    save_file(weights, file)
    assert find_checkpoint(moved).fingerprint != before


def test_a_hub_id_is_known_by_its_commit(
    folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the hub's cache has it; nothing is asked of the network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--someone--ltx"
    for name, digit in (("main", "a"), ("next", "b")):
        commit = digit * 40
        shutil.copytree(folders["ltx"], repository / "snapshots" / commit)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / name).write_text(commit)
    role = RoleChoice(BACKENDS["ltx"], "someone/ltx")
    assert pinned(role) == f"ltx=someone/ltx@{'a' * 40}"
    later = RoleChoice(BACKENDS["ltx"], "someone/ltx@next")
    assert pinned(later) == f"ltx=someone/ltx@{'b' * 40}"
    again = RoleChoice(BACKENDS["ltx"], pinned(role).removeprefix("ltx="))
    assert find_checkpoint(again) == find_checkpoint(role)
    assert find_checkpoint(role).fingerprint != find_checkpoint(later).fingerprint
    assert (find_checkpoint(role).read("vae/config.json") or {})["latent_channels"] == 8
    assert find_checkpoint(role).read("no/such.json") is None


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_quantisation_is_what_diffusers_takes(monkeypatch: pytest.MonkeyPatch, bits: str) -> None:
    config = quantization(bits, torch.bfloat16)
    assert config.quant_backend == f"bitsandbytes_{bits}"
    assert "transformer" in config.components_to_quantize


# ---- Pixels, stores, states -----------------------------------------------------------------


def test_all_8_bit_values_survive_unit_scale() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_eight_bit(to_unit_scale(values)), values)
    picture = values.reshape(1, 256, 1).expand(2, 256, 3).numpy()
    codec = PixelCodec()
    (pixels,) = codec.decode([codec.encode(picture)[None]])
    assert torch.equal((pixels[0] * 255).round().to(torch.uint8)[0, 0], values)


def test_pixels_are_kept_in_8_bits_and_nothing_else_is() -> None:
    kept = MemoryStore()
    store = EightBitStore(kept)
    latents = to_unit_scale(torch.arange(24, dtype=torch.uint8).reshape(1, 3, 2, 4))
    store.put("key", latents)
    assert kept.num_bytes == 24
    assert torch.equal(store.get("key"), latents)
    with pytest.raises(ValueError, match="must be 8-bit pixels"):
        store.put("other", latents + 1e-3)
    store.release("key")
    assert "key" not in store


def test_a_project_remembers_its_pretrained_models() -> None:
    story = Storyline.parse("a dog", 1)
    ours = FilmState(9, 9, 8.0, 0, SamplingConfig(), story)
    theirs = replace(
        ours, global_model="stills=a/b@c", local_model="wan-flf=/d", size="64x32", quantize="4bit"
    )
    for state in (ours, theirs):
        assert from_json(json.loads(json.dumps(to_json(state)))) == state
    assert not {"global_model", "size", "quantize"} & to_json(ours)["film"].keys()
