"""What the documents say: every block of Python and every command is run, or its settings read."""

import json
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from diffusers import AutoencoderKL, UNet2DConditionModel
from tiny import SIZE, tiny_pipeline, tiny_text_encoder, tiny_tokenizer

from nuwaxl.cli import main
from nuwaxl.config import read_story
from nuwaxl.training.diffusion import NoiseConfig
from nuwaxl.tree.timeline import Timeline
from nuwaxl.video import probe

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
TRAINING = (ROOT / "docs" / "training.md").read_text()
NOT_RUN = "<!-- not run"


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language, but for those marked as not run."""
    found = re.finditer(rf"([^\n]*)\n```{language}\n(.*?)```", text, re.DOTALL)
    return [textwrap.dedent(m[2]) for m in found if not m[1].startswith(NOT_RUN)]


def commands(text: str) -> Iterator[list[str]]:
    """Shell commands as words, without comments and environment variables."""
    for block in blocks(text, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                words.pop(0)
            if words:
                yield words


ALL_COMMANDS = [words for text in (README, CONTRIBUTING, TRAINING) for words in commands(text)]
GENERATE = [words for words in ALL_COMMANDS if words[:2] == ["nuwaxl", "generate"]]
PLAN = [words for words in ALL_COMMANDS if words[:2] == ["nuwaxl", "plan"]]
MAKE = [words for words in ALL_COMMANDS if words[0] == "make"]
# `torchrun ... -m nuwaxl train` is read like `nuwaxl train`.
TRAIN = [w[w.index("train") + 1 :] for w in ALL_COMMANDS if "train" in w and "nuwaxl" in w]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_pipeline(segment_length=4).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def workplace(checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which the tiny model is the bundled one."""
    monkeypatch.setattr("nuwaxl.parts.components.BUNDLED", Path(checkpoint))
    monkeypatch.setattr("nuwaxl.cli.request.BUNDLED", (checkpoint,))
    monkeypatch.chdir(tmp_path)
    for name in ("configs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def test_every_command_of_the_documents_is_of_a_kind_that_is_tested() -> None:
    assert len(ALL_COMMANDS) == sum(map(len, (GENERATE, PLAN, MAKE, TRAIN)))
    assert len(GENERATE) >= 5
    assert len(TRAIN) >= 5


@pytest.mark.parametrize("words", GENERATE, ids=" ".join)
def test_a_film_command_makes_its_film(
    workplace: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """As written, but for a short length, one step, and one frame per second of a story."""
    argv = words[1:]
    if "--length" in argv:
        argv[argv.index("--length") + 1] = "9"
    argv += ["--steps", "1", "--fps", "1", "--device", "cpu", "--dtype", "float32"]
    assert main(argv) == 0, capsys.readouterr().err
    assert probe(argv[argv.index("--output") + 1]).num_frames in (9, 28, 30)


@pytest.mark.parametrize("words", PLAN, ids=" ".join)
def test_a_plan_command_counts_runs(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words[1:]) == 0
    assert " runs" in capsys.readouterr().out


@pytest.mark.parametrize("words", MAKE, ids=" ".join)
def test_a_make_command_has_its_target(words: list[str]) -> None:
    assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


# In a process of its own: the checked shapes of this one take no lists, which YAML reads.
READ_CONFIGS = """
import dataclasses, json, sys
from nuwaxl.config import load_config
from nuwaxl.training.main import STAGES
configs = [load_config(STAGES[stage][0], file, rest) for stage, file, *rest in json.load(sys.stdin)]
json.dump([dataclasses.asdict(config) for config in configs], sys.stdout)
"""


def test_training_commands_have_settings_that_can_be_read() -> None:
    done = subprocess.run(
        [sys.executable, "-c", READ_CONFIGS],
        input=json.dumps(TRAIN), capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for (stage, file, *_), config in zip(TRAIN, json.loads(done.stdout), strict=True):
        assert config["loop"]["output_dir"].startswith("out/")
        if file.endswith("article.yaml"):
            betas = NoiseConfig(**config["noise"]).scheduler().betas
            assert len(betas) == 1000
            assert (betas[0].item(), betas[-1].item()) == pytest.approx((1e-4, 0.02))
            assert betas.diff().std() < 1e-6
            assert config["noise"]["prediction_type"] == "epsilon"
            assert config["snr_gamma"] == config["actor_weight"] == 0
        if stage == "local":
            assert config["given"]["ends"] > 0.5


def test_every_training_config_stands_in_the_documents() -> None:
    files = {f"configs/train/{path.name}" for path in (ROOT / "configs" / "train").glob("*.yaml")}
    assert files == {words[1] for words in TRAIN}


def test_the_readme_is_a_session_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_pipeline(segment_length=16).save_pretrained(tmp_path / "checkpoint")
    monkeypatch.setattr("nuwaxl.parts.components.BUNDLED", tmp_path / "checkpoint")
    monkeypatch.chdir(tmp_path)
    session: dict[str, object] = {}
    for block in blocks(README, "python"):
        short = block.replace('length="30s"', 'length="1s"').replace("128, 128", f"{SIZE}, {SIZE}")
        exec(compile(short, "README.md", "exec"), session)
    assert probe("film.mp4").num_frames == 8
    assert session["video"].shape == (1, 17, SIZE, SIZE, 3)  # pyright: ignore
    assert len(session["middle"]) == 20  # pyright: ignore


def test_the_story_of_the_readme_can_be_read(tmp_path: Path) -> None:
    (story,) = blocks(README, "yaml")
    (tmp_path / "story.yaml").write_text(story)
    told = read_story(tmp_path / "story.yaml")
    assert len(told.scenes) == 2
    assert told.settings == {"fps": 8, "seed": 7}


def test_links_and_the_file_tree_lead_somewhere() -> None:
    for text, folder in ((README, ROOT), (CONTRIBUTING, ROOT), (TRAINING, ROOT / "docs")):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            # The picture is made by the bundled model, from the films that it makes.
            assert (folder / target).exists() or target == "docs/images/film.png", target
    (tree,) = blocks(README, "text")
    for line in tree.splitlines():
        name = line.split()[0]
        path = ROOT / "nuwaxl" / name if line.startswith("  ") else ROOT / name
        assert path.exists(), name


def test_the_counts_of_the_readme_are_those_of_the_timeline() -> None:
    for depth in range(1, 5):
        timeline = Timeline.full(depth)
        last = timeline.segments_per_level[-1]
        row = f"| {depth} | {timeline.num_frames:,} | {timeline.num_segments:,} | {last:,} |"
        assert row in README
    assert Timeline(1024).num_segments == 91


def floors(layers: list[str]) -> list[set[str]]:
    """The modules of each layer; those of one layer may stand in any order."""
    return [set(re.findall(r"\w+", layer)) for layer in layers]


def test_the_house_of_contributing_is_in_the_contracts() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    contracts = [c for c in tool["importlinter"]["contracts"] if c["type"] == "layers"]
    house = {c["containers"][0]: floors(c["layers"]) for c in contracts}
    cells = r"^\| (\d*) ?\| ([a-z_, ]+) \| .+ \| (.*?) ?\|$"
    drawn: list[set[str]] = []
    for floor, rooms, inside in re.findall(cells, CONTRIBUTING, re.MULTILINE):
        if floor:
            drawn.append(set())
        drawn[-1] |= set(rooms.split(", "))
        if inside:
            assert floors(inside.split(", ")) == house.pop(f"nuwaxl.{rooms}"), rooms
    assert house == {"nuwaxl": drawn}


def tiny_stable_diffusion(folder: Path) -> None:
    """The parts of a Stable Diffusion checkpoint that the paper's size starts from."""
    UNet2DConditionModel(
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=12,
        attention_head_dim=2,
    ).save_pretrained(folder / "unet")
    four: Any = 4  # diffusers annotates these as tuples of one
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * four,
        up_block_types=("UpDecoderBlock2D",) * four,
        block_out_channels=(4,) * four,
        norm_num_groups=2,
        latent_channels=4,
    ).save_pretrained(folder / "vae")
    tiny_text_encoder().save_pretrained(folder / "text_encoder")
    tiny_tokenizer().save_pretrained(folder / "tokenizer")


def test_the_papers_size_starts_from_stable_diffusion(workplace: Path) -> None:
    tiny_stable_diffusion(workplace / "sd")
    (block,) = blocks(TRAINING, "python")
    exec(block.replace("stable-diffusion-v1-5/stable-diffusion-v1-5", str(workplace / "sd")), {})
    small = [
        "strips.all.num_strips=1",
        "strips.all.strip_length=16",
        "loop.max_steps=1",
        "loop.gradient_accumulation_steps=1",
        "loop.mixed_precision='no'",
    ]
    train = ["-m", "nuwaxl", "train", "global", "configs/train/nuwa_xl_128.yaml", *small]
    done = subprocess.run([sys.executable, *train], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (workplace / "out/nuwa_xl/global/model/config.json").is_file()
