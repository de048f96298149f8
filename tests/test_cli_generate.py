import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tiny import tiny_pipeline

from nuwaxl.cli import main
from nuwaxl.video import VideoWriter, probe

Generate = Callable[..., int]
DOG = ("--prompt", "a dog runs")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_pipeline(segment_length=4).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def generate(checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generate:
    """Run `nuwaxl generate` in an empty folder with a tiny model."""
    monkeypatch.chdir(tmp_path)

    def call(*argv: str) -> int:
        fixed = ("--model", checkpoint, "--steps", "2", "--device", "cpu", "--dtype", "float32")
        return main(["generate", *fixed, *argv])

    return call


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("length", [1, 2, 17])
def test_a_film_has_the_length_asked_for(generate: Generate, tmp_path: Path, length: int) -> None:
    assert generate(*DOG, "--length", str(length)) == 0
    assert probe(tmp_path / "film.mp4").num_frames == length
    assert files_in(tmp_path) == ["film.mp4"]


def test_one_seed_gives_the_same_bytes_and_another_differs(
    generate: Generate, tmp_path: Path
) -> None:
    for name, seed in (("a.mp4", "1"), ("b.mp4", "1"), ("c.mp4", "2")):
        assert generate(*DOG, "--length", "6", "--seed", seed, "-o", name) == 0
    first, again, other = ((tmp_path / f"{name}.mp4").read_bytes() for name in "abc")
    assert first == again
    assert first != other


def test_the_summary_names_file_frames_and_runs(
    generate: Generate, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(*DOG, "--depth", "2", "--fps", "5") == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("film.mp4: 10 frames, 2 s at 5 fps, from 4 runs in ")
    assert shown.err == ""


def test_quiet_prints_nothing(generate: Generate, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(*DOG, "--length", "2", "--quiet") == 0
    shown = capsys.readouterr()
    assert shown.out == shown.err == ""


def test_somebody_at_a_terminal_sees_progress(
    generate: Generate, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert generate(*DOG, "--length", "6") == 0
    assert "6/6" in capsys.readouterr().err


def test_a_story_with_a_contact_sheet(generate: Generate, tmp_path: Path) -> None:
    story = "fps: 4\nscenes:\n- {prompt: a dog, duration: 1s}\n- {prompt: a cat, duration: 1s}\n"
    (tmp_path / "s.yaml").write_text(story)
    argv = ("--story", "s.yaml", "-o", "film.gif", "--contact-sheet", "sheet.png")
    assert generate(*argv) == 0
    info = probe(tmp_path / "film.gif")
    assert (info.num_frames, info.fps) == (8, 4)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width >= 6 * 16
    assert files_in(tmp_path) == ["film.gif", "s.yaml", "sheet.png"]


def test_overwrite_replaces(generate: Generate, tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_text("old")
    assert generate(*DOG, "--length", "2") == 2
    assert (tmp_path / "film.mp4").read_text() == "old"
    assert generate(*DOG, "--length", "2", "--overwrite") == 0
    assert probe(tmp_path / "film.mp4").num_frames == 2


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "nuwaxl: stopped; film.mp4 was not written.\n"),
        (OSError(28, "No space left on device"), 1, "nuwaxl: error: film.mp4 was not written: "),
    ],
)
def test_a_film_that_breaks_off_leaves_no_file(
    generate: Generate,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    line: str,
) -> None:
    write = VideoWriter.write

    def break_off(writer: VideoWriter, frame: object) -> None:
        if writer.num_frames == 3:
            raise error
        write(writer, frame)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(VideoWriter, "write", break_off)
    assert generate(*DOG, "--length", "6") == code
    assert capsys.readouterr().err.startswith(line)
    assert files_in(tmp_path) == []


def test_a_device_that_is_not_there_is_one_line(
    generate: Generate, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert generate(*DOG, "--length", "2", "--device", "cuda:99") == 2
    error = capsys.readouterr().err
    assert "`--device` cuda:99 cannot be used here" in error
    assert error.count("\n") == 1
    assert files_in(tmp_path) == []


def test_the_model_says_its_segment_length(
    checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--depth", "3", f"model={checkpoint}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_frames"] == 3**3 + 1
