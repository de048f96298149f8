import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import SIZE, tiny_pipeline
from tiny_backends import save_tiny

from nuwaxl.video import probe, read_video

EXAMPLES = Path(__file__).parent.parent / "examples"
Run = Callable[..., None]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_pipeline(segment_length=4).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def run(checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run an example's `main` in an empty folder with a tiny model."""
    monkeypatch.chdir(tmp_path)

    def call(name: str, *argv: str) -> None:
        load(name).main(["--model", checkpoint, "--steps", "1", *argv])

    return call


def load(name: str):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_quickstart_writes_a_film_and_a_sheet(run: Run, tmp_path: Path) -> None:
    run("quickstart", "--length", "10", "--prompt", "a dog runs")
    assert probe(tmp_path / "quickstart.mp4").num_frames == 10
    assert Image.open(tmp_path / "quickstart.png").width > 6 * SIZE


def test_storyline_previews_keyframes_and_goes_on_from_them(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("storyline", "--seconds-per-scene", "0.5")
    assert probe(tmp_path / "storyline.mp4").num_frames == 12
    assert "storyline.png: 4 keyframes after one run\n" in capsys.readouterr().out


def test_stream_to_file_tells_how_far_it_is(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("stream_to_file", "--length", "2s")
    assert probe(tmp_path / "stream.mp4").num_frames == 16
    assert "frame 10 after " in capsys.readouterr().out


def test_image_to_video_pins_both_ends(run: Run, tmp_path: Path) -> None:
    for name, grey in (("start", 40), ("end", 200)):
        Image.fromarray(np.full((SIZE, SIZE, 3), grey, np.uint8)).save(f"{name}.png")
    pins = ("--image", "start.png", "--last-image", "end.png")
    films = []
    for seed in ("1", "2"):
        run("image_to_video", *pins, "--length", "8", "--seed", seed, "--output", seed)
        films.append(list(read_video(tmp_path / seed)))
    first, second = films
    assert len(first) == len(second) == 8
    # The tiny decoder's temporal layers are untrained, so pixels follow from a frame's own latents.
    assert (first[0] == second[0]).all()
    assert (first[-1] == second[-1]).all()
    assert (first[4] != second[4]).any()


def test_image_to_video_draws_a_picture_when_none_is_given(run: Run, tmp_path: Path) -> None:
    run("image_to_video", "--length", "3")
    assert probe(tmp_path / "image_to_video.mp4").num_frames == 3


def test_toon_contact_sheet_draws_a_story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "sheet.png"
    monkeypatch.setattr(sys, "argv", ["example", "--output", str(output), "--seconds", "6"])
    load("toon_contact_sheet").main()
    assert Image.open(output).width > 10 * 128


def test_pretrained_models_make_a_film_of_two_kinds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    roles = (
        f"stills={save_tiny('stills', tmp_path / 's')}",
        f"ltx={save_tiny('ltx', tmp_path / 'l')}",
    )
    argv = ("--global-model", roles[0], "--local-model", roles[1], "--size", "32x32")
    load("pretrained_models").main(
        [*argv, "--length", "17", "--segment-length", "9", "--steps", "1", "--device", "cpu"]
    )
    assert probe(tmp_path / "pretrained.mp4").num_frames == 17
    assert "17 frames, 3 runs\n" in capsys.readouterr().out


def test_every_example_is_run_here() -> None:
    source = Path(__file__).read_text()
    assert not [p.name for p in EXAMPLES.glob("*.py") if f'"{p.stem}"' not in source]
