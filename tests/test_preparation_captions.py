"""Captions of prepared videos: from files beside them, and by captioners of transformers."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import moving, write_clip
from tiny import tiny_tokenizer
from transformers import (
    BertTokenizerFast,  # pyright: ignore (a lazy name)
    BlipConfig,
    BlipForConditionalGeneration,
    BlipProcessor,
    CLIPImageProcessor,
    GitConfig,
    GitForCausalLM,
    GitProcessor,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from nuwaxl.cli import main
from nuwaxl.data.prepared import PreparedDataset
from nuwaxl.preparation.captioner import Captioner
from nuwaxl.preparation.duplicates import ShotPrint, find_duplicates
from nuwaxl.preparation.prepare import prepare
from nuwaxl.preparation.settings import PrepareConfig
from nuwaxl.preparation.sidecars import read_sidecar

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
VISION: dict[str, Any] = {**SIZES, "image_size": 32, "patch_size": 16}


def bert_tokenizer(folder: Path) -> BertTokenizerFast:
    words = sorted(tiny_tokenizer().get_vocab().items(), key=lambda entry: entry[1])
    (folder / "vocab.txt").write_text("\n".join([word for word, _ in words] + ["[MASK]"]))
    return BertTokenizerFast(str(folder / "vocab.txt"))


def tiny_captioner(kind: str, folder: Path) -> str:
    """A captioner with random weights, saved as those on the hub are."""
    torch.manual_seed(1)
    folder.mkdir()
    tokenizer = bert_tokenizer(folder)
    tokens: dict[str, Any] = dict(
        vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=2, eos_token_id=3
    )
    if kind == "git":
        images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
        processor: Any = GitProcessor(images, tokenizer)
        config: Any = GitConfig(vision_config=VISION, **SIZES, **tokens, max_position_embeddings=64)
        model: Any = GitForCausalLM(config)
    else:
        images = BlipImageProcessorPil(size={"height": 32, "width": 32})
        processor = BlipProcessor(images, tokenizer)
        text = {**SIZES, **tokens, "max_position_embeddings": 64, "sep_token_id": 3}
        text |= {"encoder_hidden_size": 16, "projection_dim": 16}
        model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=VISION))
    # Random weights say the same of every picture unless what they see weighs more.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
        if kind == "git":
            model.output.bias[:4] = -1e4  # else it repeats a special token, which is no word
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", params=["git", "blip"])
def captioner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_captioner(request.param, tmp_path_factory.mktemp(request.param) / "model")


def test_a_captioner_says_the_same_of_a_picture_whatever_stands_beside_it(captioner: str) -> None:
    model = Captioner(captioner, device="cpu", batch_size=2, max_new_tokens=6)
    pictures = [moving(1, colour=colour)[0] for colour in range(5)]
    captions = model(pictures)
    assert captions == [model([picture])[0] for picture in pictures]
    assert len(captions) == 5
    assert any(captions)


def test_the_command_captions_shots_that_bring_no_words(
    captioner: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clip(tmp_path / "v/a.mp4", [*moving(16, colour=1), *moving(16, colour=6)])
    write_clip(tmp_path / "v/b.mp4", moving(16, colour=3))
    (tmp_path / "v/b.txt").write_text("A white square\nmoves.\n")
    command = ["prepare", str(tmp_path / "v"), "-o", str(tmp_path / "d"), "--size", "16"]
    assert main([*command, "--captioner", captioner, "--workers", "1"]) == 0
    assert "1 video from files, 1 by the captioner, 0 without" in capsys.readouterr().out
    dataset = PreparedDataset(tmp_path / "d")
    first, second = dataset.videos
    assert len(first.shots) == 2
    assert all(first.caption_at(shot.first) for shot in first.shots)
    assert second.captions == ((0, "A white square moves."),)


def counting_captioner(pictures: Any) -> list[str]:
    return [f"{len(picture)} {bright(picture):.0f} {next(NUMBERS)}" for picture in pictures]


def bright(picture: np.ndarray) -> float:
    """Column of the middle of the bright square."""
    return float(np.nonzero((picture > 200).all(-1))[1].mean())


NUMBERS = itertools.count()


@pytest.mark.parametrize(
    ("every", "firsts"),
    [("shot", [0, 16]), ("frame", list(range(32))), ("1s", [0, 8, 16, 24])],
)
def test_captions_are_made_as_often_as_asked(tmp_path: Path, every: str, firsts: list[int]) -> None:
    write_clip(tmp_path / "v/a.mp4", [*moving(16, colour=1), *moving(16, colour=6)])
    config = PrepareConfig(size=16, captioner="by hand", caption_every=every)
    (video,) = prepare(tmp_path / "v", tmp_path / "d", config, caption=counting_captioner).kept
    assert [first for first, _ in video.captions] == firsts
    shown = [text.split() for _, text in video.captions]
    assert {size for size, _, _ in shown} == {"48"}  # all that the video has
    if every == "shot":  # the square moves by 2, and 8 columns are cut off: in the middle
        assert abs(int(shown[0][1]) - (2 * 8 + 6 - 8)) <= 1
    assert PreparedDataset(tmp_path / "d").picture(0, 5).shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.txt", "\ufeffOne\n caption. ", {0: "One caption.", 9: "One caption."}),
        ("a.json", '{"caption": "Said."}', {0: "Said."}),
        ("a.json", '["one", "two"]', {4.9: "one", 5: "two"}),
        ("a.json", '{"0": "one", "1m": "late"}', None),
        ("a.json", '{"0": "one", "2.5s": "two"}', {2.4: "one", 2.5: "two"}),
        ("a.json", '[{"prompt": "a", "duration": 3}, {"prompt": "b"}]', {2.9: "a", 3: "b"}),
        ("a.srt", "1\n00:00:02,000 --> 00:00:03,000\n<b>First</b>\n", {0: "First", 9: "First"}),
        (
            "a.srt",
            "1\n00:00:02,000 --> 00:00:03,000\none\n\n2\n00:00:04,500 --> 00:00:05,000\ntwo\nlines"
            "\n\n3\n00:01:00,000 --> 00:01:05,000\nafter the end\n",
            {0: "one", 4.4: "one", 4.5: "two lines", 10: "two lines"},
        ),
    ],
)
def test_files_beside_a_video_say_what_is_seen_when(
    tmp_path: Path, name: str, text: str, told: dict[float, str] | None
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    if told is None:
        with pytest.raises(ValueError, match="starts at 1m, when the film of 10s is over"):
            read_sidecar(tmp_path / name, 10)
        return
    storyline = read_sidecar(tmp_path / name, 10)
    assert {time: storyline.prompt_at(time) for time in told} == told


def test_shots_are_duplicates_across_videos_only_and_if_they_last_as_long() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.bytes(32).hex() for _ in range(2))
    near = f"{int(a, 16) ^ 0b10110:064x}"  # three bits of 256
    shots = [
        ShotPrint("one", 0, 5, a),
        ShotPrint("one", 5, 5, a),
        ShotPrint("two", 0, 5.1, near),
        ShotPrint("two", 6, 9, near),
        ShotPrint("two", 15, 5, b),
        ShotPrint("three", 0, 5, b),
    ]
    assert find_duplicates([], shots) == {("two", 0): "one", ("three", 0): "two"}
    assert find_duplicates([ShotPrint("zero", 3, 5, a)], shots[:2]) == {
        ("one", 0): "zero",
        ("one", 5): "zero",
    }
