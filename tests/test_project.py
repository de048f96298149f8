import json
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image
from shell import FIXED, HERE, Shell, changed, runs_made, will_run
from tiny import tiny_pipeline

from nuwaxl.video import probe, read_video


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_pipeline(segment_length=4).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def shell(
    checkpoint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(checkpoint, tmp_path, capsys)


def test_a_folder_keeps_the_film_what_it_shows_and_how_it_was_made(shell: Shell):
    out = shell.begin()
    num_runs = will_run(out)
    assert runs_made(out) == num_runs == len(shell.segments())
    assert "png: 40 frames, 5 s at 8 fps" in out
    names = {path.name for path in Path("film").iterdir()}
    assert names == {"history", "lock", "project.json", "segments", "segments.tsv", "story.yaml"}
    assert "a dog runs" in Path("film/story.yaml").read_text()
    rows = Path("film/segments.tsv").read_text().splitlines()
    assert len(rows) == 1 + num_runs
    assert all((Path("film") / row.split("\t")[7]).is_file() for row in rows[1:])
    settings = json.loads(Path("film/history/0001.json").read_text())
    assert settings["film"]["sampling"]["num_inference_steps"] == 1


def test_going_on_runs_nothing_twice_and_needs_no_description(shell: Shell):
    shell.begin()
    before = shell.frames()
    for again in (lambda: shell.begin("--overwrite"), lambda: shell.begin()):
        out = again()
        assert will_run(out) == runs_made(out) == 0
    out = shell("generate", "--project", "film", *HERE)
    assert runs_made(out) == 0
    assert changed(before, shell.frames()) == []
    # A run of the last level: those above it are not read once what they gave is there.
    rows = [line.split("\t") for line in Path("film/segments.tsv").read_text().splitlines()[1:]]
    victim = Path("film") / max(rows, key=lambda row: int(row[0]))[7]
    victim.write_bytes(victim.read_bytes()[:-9])
    out = shell("generate", "--project", "film", *HERE)
    assert will_run(out) == runs_made(out) == 1
    assert changed(before, shell.frames()) == []


def test_another_film_in_the_same_folder_is_refused(shell: Shell):
    shell.begin()
    assert "another `seed`" in shell.begin("--seed", "3", code=2)
    Path("other").mkdir()
    Path("other/letter.txt").write_text("dear")
    error = shell("generate", "--project", "other", "--length", "9", "--prompt", "a dog",
                  "--model", shell.checkpoint, code=2)  # fmt: skip
    assert "no film of this program" in error
    assert "holds no film yet" in shell("edit", "none", "--at", "1s..2s", "-p", "a cat", code=2)
    assert not Path("none").exists()


def test_an_edit_says_what_it_runs_runs_that_and_leaves_the_rest(shell: Shell):
    shell.begin()
    before, old = shell.frames(), shell.segments()
    argv = ("edit", "film", "--at", "2s..3s", "--prompt", "a cat walks", *HERE)
    said = shell(*argv, "--dry-run")
    assert said.startswith("2s..3s, frames 16 to 23: will run ")
    assert "fps" not in said
    assert shell.segments() == old
    out = shell(*argv)
    assert will_run(out) == will_run(said) == runs_made(out) == len(shell.segments() - old)
    assert 0 < runs_made(out) < len(old)
    after = shell.frames()
    assert changed(before, after) == list(range(16, 24))
    assert "already" in shell(*argv, code=2)

    out = shell("reroll", "film", "--at", "2.5s..4s", *HERE)
    assert changed(after, shell.frames()) == list(range(20, 32))
    log = shell("log", "film").splitlines()
    assert [line[:5] for line in log] == ["    1", "    2", "*   3"]
    assert log[1].endswith("edit --at 2s..3s --prompt 'a cat walks'")

    out = shell("undo", "film", *HERE)
    assert out.startswith("took back: reroll --at 2.5s..4s\n")
    assert runs_made(out) == 0
    assert changed(after, shell.frames()) == []
    assert runs_made(shell("undo", "film", *HERE)) == 0
    assert changed(before, shell.frames()) == []
    assert "nothing to undo" in shell("undo", "film", code=2)
    log = shell("log", "film").splitlines()
    assert log[0].startswith("*")
    assert log[1].endswith("(taken back)")


def test_a_picture_is_shown_and_only_what_is_near_it_changes(shell: Shell):
    shell.begin()
    before = shell.frames()
    rose = np.zeros((16, 16, 3), np.uint8)
    rose[4:12, 4:12] = (220, 20, 90)
    Image.fromarray(rose).save("rose.png")
    out = shell("pin", "film", "--at", "2s", "--image", "rose.png", "--around", "1s", *HERE)
    assert runs_made(out) == will_run(out) > 0
    Path("rose.png").unlink()
    after = shell.frames()
    assert set(changed(before, after)) <= set(range(8, 25))
    assert 16 in changed(before, after)
    assert runs_made(shell("generate", "--project", "film", *HERE)) == 0
    error = shell("pin", "film", "--at", "2s", "--image", "rose.png", code=2)
    assert "`--image`" in error


def test_a_longer_film_keeps_what_it_had(shell: Shell):
    shell.begin()
    before, old = shell.frames(), shell.segments()
    out = shell("extend", "film", "--length", "60", "--prompt", "a fox runs", *HERE)
    after = shell.frames()
    assert len(after) == 60
    assert changed(before, after[:40]) == []
    assert runs_made(out) == will_run(out) == len(shell.segments() - old)
    assert "more than the film has" in shell("extend", "film", "--length", "50", code=2)
    assert "a fox runs" in Path("film/story.yaml").read_text()


def test_preview_and_clip_run_only_what_they_need(shell: Shell):
    whole = shell.begin("--max-level", "0")
    assert will_run(whole) == runs_made(whole) == 1
    held = shell.frames()
    assert len(held) == 40
    assert len({picture.tobytes() for picture in held}) == 4
    out = shell("preview", "film", *HERE)
    assert will_run(out) == 0
    assert probe("film/preview.mp4").num_frames == 4 * 4
    with Image.open("film/storyboard.png") as board:
        assert board.width > 4 * 16
    argv = ("clip", "film", "--at", "3s", "--for", "0.2s", *HERE)
    said = shell(*argv, "--dry-run")
    assert not list(Path("film").glob("clip*"))
    out = shell(*argv)
    assert will_run(out) == will_run(said) <= 4
    assert "frames 24 to 25" in out
    assert probe("film/clip-3s.mp4").num_frames == 2
    shell(*argv, "-o", "part")
    shell.begin()
    assert changed(shell.frames("part"), shell.frames()[24:26]) == []
    assert "`--at`" in shell("clip", "film", "--at", "9s", code=2)


def test_a_coarse_film_is_the_beginning_of_the_whole_one(shell: Shell):
    """`--max-level 1` shows the frames of two levels; the whole film then runs the others only."""
    coarse = will_run(shell.begin("--max-level", "1"))
    levels = [
        int(row.split("\t")[0]) for row in Path("film/segments.tsv").read_text().splitlines()[1:]
    ]
    assert coarse == sum(level <= 1 for level in levels) == len(shell.segments())
    held = shell.frames()
    shown = [at for at in range(40) if at == 0 or not np.array_equal(held[at], held[at - 1])]
    assert will_run(shell.begin("--max-level", "1")) == 0
    assert runs_made(shell.begin()) == len(levels) - coarse
    whole = shell.frames()
    # A keyframe inside a window has neighbours in the whole film that the coarse one has not, of
    # which the decoder may take account: the same latents, nearly the same pixels.
    assert 4 < len(shown) < 40
    assert np.abs(whole[shown].astype(int) - held[shown]).mean() < 8


def test_a_bucket_keeps_the_segments(shell: Shell):
    address = f"memory://{shell.folder.name}/segments"
    num_runs = runs_made(shell.begin("--store", address))
    assert not Path("film/segments").exists()
    before = shell.frames()
    assert runs_made(shell("generate", "--project", "film", *HERE)) == 0
    rows = Path("film/segments.tsv").read_text().splitlines()[1:]
    victim = max(rows, key=lambda row: int(row[0])).split("\t")[7]
    assert victim.startswith(address)
    files = fsspec.filesystem("memory")
    assert len(files.find(address)) == num_runs
    files.rm_file(victim)
    out = shell("generate", "--project", "film", *HERE)
    assert will_run(out) == runs_made(out) == 1
    assert changed(before, shell.frames()) == []


def test_many_workers_make_the_same_film(shell: Shell):
    shell.begin()
    before = shell.frames()
    out = shell("generate", "--prompt", "a dog runs", "--model", shell.checkpoint, *FIXED, *HERE,
                "--workers", "3", "-o", "again")  # fmt: skip
    assert "40 frames" in out
    assert np.abs(before.astype(int) - shell.frames("again")).max() <= 1
    assert "`--executor` must be" in shell.begin("--executor", "rai", code=2)
    assert "`--workers`" in shell.begin("--workers", "0", code=2)


BAD_INPUT = [
    (("edit", "film", "--at", "5s", "--prompt", "a cat"), "two times such as 12s..20s"),
    (("edit", "film", "--at", "3s..2s", "--prompt", "a cat"), "end after it begins"),
    (("edit", "film", "--at", "9s..10s", "--prompt", "a cat"), "must hold a frame"),
    (("edit", "film", "--at", "x..2s", "--prompt", "a cat"), "`--at`"),
    (("edit", "film", "--at", "1s..2s", "--prompt", " "), "`--prompt`"),
    (("extend", "film", "--length", "x"), "`--length`"),
    (("pin", "film", "--at", "77s", "--image", "."), "`--image`"),
]


def test_what_cannot_be_is_one_line(shell: Shell):
    shell.begin("--max-level", "0")
    for argv, line in BAD_INPUT:
        assert line in shell(*argv, code=2)
    assert len(shell("log", "film").splitlines()) == 1


def test_a_store_elsewhere_is_remembered(shell: Shell):
    shell.begin("--store", str(shell.folder / "elsewhere"))
    assert not Path("film/segments").exists()
    assert runs_made(shell("generate", "--project", "film", *HERE)) == 0
    assert "`--project`" in shell("generate", "--store", "x", "--prompt", "a", "--length", "9",
                                  "--model", shell.checkpoint, code=2)  # fmt: skip


def test_the_film_file_is_the_folder_s_own_unless_told(shell: Shell, checkpoint: str):
    shell("generate", "--project", "film", "--prompt", "a dog runs", "--model", checkpoint,
          "--length", "8", "--steps", "1", *HERE)  # fmt: skip
    assert len(list(read_video("film/film.mp4"))) == 8
