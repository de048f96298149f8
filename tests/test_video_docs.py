"""docs/video.md: its commands, in their order, go from a folder of videos to a film."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

from clips import moving, write_clip
from tiny import tiny_text_encoder, tiny_tokenizer, tiny_vae

from nuwaxl.video import probe

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs/video.md").read_text()
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
]
MODEL = [
    "model.block_out_channels=[8,16]", "model.attention_head_dim=4", "model.norm_num_groups=4",
    "model.cross_attention_dim=12", "num_frames=[[1.0,4,4]]", "conditioning.vae=vae",
    "conditioning.text_encoder=text", "conditioning.tokenizer=tokenizer",
]  # fmt: skip
LOOP = ["loop.max_steps=2", "loop.batch_size=2", "loop.mixed_precision='no'"]
SMALL = {
    ("prepare",): ["--size", "16", "--workers", "1"],
    ("train", "global"): [
        *MODEL, *LOOP, "strips.wide.num_strips=2", "strips.wide.strip_length=4"
    ],
    ("train", "local"): [
        *MODEL, *LOOP, "strips.dense.num_strips=2", "strips.dense.strip_length=4"
    ],
    ("train", "autoencoder"): [
        *LOOP, "base=vae", "model.latent_channels=4", "num_statistics=4"
    ],
    ("assemble",): [
        "vae=vae", "text_encoder=text", "tokenizer=tokenizer", "height=16", "width=16",
        "segment_length=4",
    ],
    ("generate",): [
        "--length", "5", "--steps", "1", "--device", "cpu", "--dtype", "float32"
    ],
}  # fmt: skip
"""What makes each command small, after its first words."""


# In a process of its own: the checked shapes of this one take no lists, which YAML reads.
RUN = """
import json, sys
from nuwaxl.cli import main
for argv in json.load(sys.stdin):
    code = main(argv)
    if code:
        sys.exit(f"{argv} ended with {code}")
"""


def made_small(command: list[str]) -> list[str]:
    words = command[1:]
    (rest,) = [more for first, more in SMALL.items() if tuple(words[: len(first)]) == first]
    if "--length" in words:
        words = [word for word in words if word not in ("--length", "30s")]
    return words + rest


def test_the_commands_lead_from_a_folder_of_videos_to_a_film(tmp_path: Path) -> None:
    assert [command[1] for command in COMMANDS] == [
        "prepare", "train", "train", "assemble", "generate", "train"
    ]  # fmt: skip
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    tiny_vae().save_pretrained(tmp_path / "vae")
    tiny_text_encoder().save_pretrained(tmp_path / "text")
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    write_clip(tmp_path / "videos/a.mp4", moving(40))
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps([made_small(command) for command in COMMANDS]),
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert probe(tmp_path / "film.mp4").num_frames == 5
    assert (tmp_path / "out/video/autoencoder/model/config.json").is_file()


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", TEXT):
        assert (ROOT / "docs" / target).exists(), target
