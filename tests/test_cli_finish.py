"""Finishing on the command line: of a film that is made, and of one that is there."""

import json
from collections.abc import Callable
from pathlib import Path

import av
import pytest
from test_cli_generate import checkpoint, generate  # noqa: F401 (fixtures)
from test_postprocessing import flickering, write_sound

from nuwaxl.cli import main
from nuwaxl.postprocessing import flicker
from nuwaxl.video import probe, read_video, write_video

Generate = Callable[..., int]
STORY = ("--prompt", "a dog runs", "--prompt", "a cat walks")


def kinds(path: str) -> list[str]:
    with av.open(path) as container:
        return [stream.type for stream in container.streams]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a film and a tone."""
    monkeypatch.chdir(tmp_path)
    write_video(flickering(20), "film.mp4", 8)
    write_sound(Path("tone.wav"), 1.0)
    return tmp_path


def test_a_film_is_made_with_all_steps_at_once(
    generate: Generate,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_sound(tmp_path / "tone.wav", 1.0)
    steps = ("--interpolate", "2", "--deflicker", "2", "--upscale", "3", "--burn-captions")
    streams = ("--subtitles", "--audio", "tone.wav", "--contact-sheet", "sheet.png")
    assert generate(*STORY, "--length", "6", *steps, *streams) == 0
    assert "film.mp4: 11 frames" in capsys.readouterr().out
    info = probe("film.mp4")
    assert (info.num_frames, info.fps, info.height) == (11, 16, 48)
    assert kinds("film.mp4") == ["video", "audio", "subtitle"]
    assert "a cat walks" in Path("film.srt").read_text()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["film.mp4", "film.srt", "sheet.png", "tone.wav"]


def test_finishing_changes_no_key_and_nothing_in_the_store(
    generate: Generate,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert generate(*STORY, "--length", "6", "--project", "p") == 0
    before = {path: path.stat().st_mtime_ns for path in Path("p").rglob("*.safetensors")}
    assert before
    assert main(["generate", "--project", "p", "--interpolate", "3", "--deflicker", "3"]) == 0
    assert "will run 0 of" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in Path("p").rglob("*.safetensors")} == before
    assert probe("p/film.mp4").num_frames == 16


def test_a_finished_film_flickers_less(workplace: Path) -> None:
    argv = ["finish", "film.mp4", "-o", "out.mkv", "--deflicker", "4", "--upscale", "2"]
    assert main([*argv, "--audio", "tone.wav"]) == 0
    before, after = (flicker(read_video(name)) for name in ("film.mp4", "out.mkv"))
    assert after < 0.5 * before
    assert probe("out.mkv").height == 32
    assert kinds("out.mkv") == ["video", "audio"]
    # Its sound stays when only its pictures are changed.
    assert main(["finish", "out.mkv", "-o", "again.mp4", "--upscale", "2"]) == 0
    assert kinds("again.mp4") == ["video", "audio"]


def test_sound_and_subtitles_alone_copy_the_pictures(workplace: Path) -> None:
    Path("story.yaml").write_text(json.dumps({"scenes": {"0s": "a dog", "1s": "a cat"}}))
    text = ["--story", "story.yaml", "--subtitles"]
    assert main(["finish", "film.mp4", "-o", "out.mp4", *text, "--audio", "tone.wav"]) == 0
    assert kinds("out.mp4") == ["video", "audio", "subtitle"]
    assert Path("out.srt").read_text().count("-->") == 2
    with av.open("film.mp4") as a, av.open("out.mp4") as b:
        packets = [[bytes(p) for p in c.demux(video=0) if p.size] for c in (a, b)]
    assert packets[0] == packets[1]


BAD = {
    "nothing to do": ([], "say what to do: --deflicker"),
    "no film": (
        ["none.mp4", "--upscale", "2"],
        "PNG files, got 'none.mp4'",
    ),
    "no picture": (["tone.wav", "--upscale", "2"], "holds no pictures"),
    "onto itself": (["film.mp4", "-o", "film.mp4", "--upscale", "2"], "must be another file"),
    "deflicker 0": (["--deflicker", "0"], "`--deflicker` must be from 1 to 120 frames, got 0"),
    "upscale 1": (["--upscale", "1"], "`--upscale` must be above 1 and at most 16, got 1"),
    "upscale text": (["--upscale", "big"], "must be a number, got 'big'"),
    "upscaler": (["--upscaler", "./none"], "`--upscaler`: the upscaler must be a folder with"),
    "no sound": (["--audio", "film.mp4"], "`--audio`: 'film.mp4' holds no sound"),
    "sound missing": (["--audio", "none.wav"], "no sound file 'none.wav'"),
    "sound in a gif": (["-o", "out.gif", "--audio", "tone.wav"], "sound can be kept in .mkv"),
    "font alone": (["--font", "a.ttf"], "add `--burn-captions`"),
    "font": (["--burn-captions", "--font", "tone.wav", "-p", "a"], "`--font` must be a TrueType"),
    "no story": (["--subtitles"], "say what the film shows"),
    "unknown ending": (["-o", "out.avi", "--upscale", "2"], "'.avi'; known are .mp4"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_writes_nothing(
    workplace: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    argv, said = BAD[name]
    argv = argv if argv and not argv[0].startswith("-") else ["film.mp4", *argv]
    argv = argv if "-o" in argv else [*argv, "-o", "out.mp4"]
    assert main(["finish", *argv]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
    assert sorted(path.name for path in workplace.iterdir()) == ["film.mp4", "tone.wav"]


def test_generate_refuses_bad_finishing_before_anything_is_loaded(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film = ["generate", "-p", "a dog", "--length", "6", "-o", "x.mp4"]
    for argv, said in (
        (["--interpolate", "1"], "`--interpolate` must be 2 or more"),
        (["--interpolate", "100"], "`fps` must be from 1 to 240"),
        (["--audio", "film.mp4"], "holds no sound"),
        (["--interpolate", "2", "--max-level", "0"], "not both"),
    ):
        assert main([*film, *argv]) == 2
        assert said in capsys.readouterr().err
