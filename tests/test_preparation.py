"""A folder of videos to a dataset: what is kept, what is left out, what a kill costs."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from clips import crash_on_bad, moving, write_clip
from PIL import Image

from nuwaxl.cli import main
from nuwaxl.data.prepared import PreparedDataset
from nuwaxl.preparation.prepare import prepare
from nuwaxl.preparation.scan import ScanTask
from nuwaxl.preparation.settings import PrepareConfig
from nuwaxl.preparation.workers import scan_all

SMALL = PrepareConfig(size=32, format="png")


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return float(np.abs(a.astype(float) - b).mean()) < 12


def squared(picture: np.ndarray, size: int = 32) -> np.ndarray:
    """The middle of a picture, by other means than the code under test."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = Image.fromarray(picture[top : top + side, left : left + side])
    return np.asarray(middle.resize((size, size), Image.Resampling.LANCZOS))


def failures(output: Path, folder: Path, config: PrepareConfig = SMALL) -> dict[str, str]:
    return {f.video: f.reason for f in prepare(folder, output, config).failures}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Two scenes in one video, a copy, a still one, captions, and things that are no videos."""
    base = tmp_path_factory.mktemp("prepared")
    folder, output = base / "videos", base / "dataset"
    scenes = [*moving(24, colour=1), *moving(24, colour=6)]
    write_clip(folder / "a.mp4", scenes)
    (folder / "a.srt").write_text(
        "1\n00:00:00,500 --> 00:00:02,000\nA <i>square</i>\nruns.\n\n"
        "2\n00:00:04,000 --> 00:00:05,000\nIt is still running.\n"
    )
    write_clip(folder / "deep/copy.mkv", [p.repeat(2, 0).repeat(2, 1) for p in scenes])
    write_clip(folder / "long.webm", moving(80, colour=3), codec="libvpx")
    write_clip(folder / "still.mp4", moving(16, colour=4, step=0))
    (folder / "talk.mp4").write_text("no video at all")
    (folder / "notes.pdf").write_text("not even by its name")
    report = prepare(folder, output, SMALL)
    return folder, output, str(report)


def test_every_picture_has_its_time_its_shot_and_its_caption(prepared: tuple) -> None:
    dataset = PreparedDataset(prepared[1])
    assert [video.video for video in dataset.videos] == ["a.mp4", "long.webm"]
    video = dataset.videos[0]
    assert [(shot.start, shot.end, shot.first) for shot in video.shots] == [(0, 3, 0), (3, 6, 24)]
    assert dataset.times(0).tolist() == [i / 8 for i in range(48)]
    captions = [video.caption_at(frame) for frame in range(48)]
    assert captions == ["A square runs."] * 32 + ["It is still running."] * 16
    scenes = [*moving(24, colour=1), *moving(24, colour=6)]
    for frame in (0, 23, 24, 47):
        assert close(dataset.picture(0, frame), squared(scenes[frame]))


def test_the_report_counts_what_is_kept_and_says_why_the_rest_is_not(prepared: tuple) -> None:
    report = prepared[2]
    assert (prepared[1] / "report.txt").read_text() == report
    for line in (
        "2 of 5 kept",
        "16s in 3 shots; the longest video is long.webm, 10s",
        "128 of 32x32",
        "2 different; 1 video from files, 0 by the captioner, 1 without",
        "without: long.webm",
        "2 shots, 6s: also in a.mp4",
        "1 shot, 2s: near-static",
        "talk.mp4: cannot be read as a film: Invalid data found",
        "not looked at: 1 file",
    ):
        assert line in report


def test_webdataset_reads_the_shards(prepared: tuple) -> None:
    import webdataset  # brings torch, which the worker processes of other tests need not load

    shards = sorted(str(path) for path in (prepared[1] / "shards").glob("*.tar"))
    reader = webdataset.WebDataset(shards, shardshuffle=False)  # pyright: ignore (a lazy name)
    samples = list(reader.decode("rgb8"))
    dataset = PreparedDataset(prepared[1])
    assert len(samples) == 128
    for frame in (0, 31, 32, 47):
        assert np.array_equal(samples[frame]["png"], dataset.picture(0, frame))
        assert samples[frame]["json"] == {
            "video": "a.mp4",
            "time": frame / 8,
            "shot": frame // 24,
            "caption": dataset.videos[0].caption_at(frame),
        }


def test_a_second_run_does_nothing_and_a_changed_or_new_video_is_taken(
    prepared: tuple, tmp_path: Path
) -> None:
    folder, output = tmp_path / "videos", tmp_path / "dataset"
    write_clip(folder / "b.mp4", moving(16, colour=2))
    first = prepare(folder, output, SMALL)
    before = {path: path.read_bytes() for path in (output / "shards").iterdir()}
    again = prepare(folder, output, SMALL)
    assert (first.num_new, again.num_new) == (1, 0)
    assert {path: path.read_bytes() for path in (output / "shards").iterdir()} == before
    write_clip(folder / "a.mp4", moving(16, colour=2))
    assert [v.video for v in prepare(folder, output, SMALL).kept] == ["b.mp4"]  # was there first
    write_clip(folder / "b.mp4", moving(24, colour=5))
    report = prepare(folder, output, SMALL)
    assert report.num_new == 2
    assert [(v.video, v.num_frames) for v in report.kept] == [("a.mp4", 16), ("b.mp4", 24)]
    os.unlink(folder / "b.mp4")
    assert prepare(folder, output, SMALL).gone == ["b.mp4"]
    assert len(PreparedDataset(output).videos) == 2
    assert not list((output / "scans").iterdir())


def test_a_variable_rate_keeps_its_times_and_repeats_no_picture(tmp_path: Path) -> None:
    times = [0, 40, 80, 120, 600, 640, 1500, 1540, 1580, 1620]
    write_clip(tmp_path / "v/a.mkv", moving(10, step=5), times=times)
    prepare(tmp_path / "v", tmp_path / "d", SMALL)
    dataset = PreparedDataset(tmp_path / "d")
    assert dataset.times(0).tolist() == pytest.approx([0, 0.12, 0.6, 1.5, 1.62])
    assert close(dataset.picture(0, 2), squared(moving(10, step=5)[4]))


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_a_rotated_video_stands_upright(tmp_path: Path, rotation: int) -> None:
    pictures = moving(8, step=5)
    write_clip(tmp_path / "v/a.mp4", pictures, rotation=rotation)
    prepare(tmp_path / "v", tmp_path / "d", SMALL)
    shown = squared(np.rot90(pictures[3], rotation // 90))
    assert close(PreparedDataset(tmp_path / "d").picture(0, 3), shown)
    assert not close(PreparedDataset(tmp_path / "d").picture(0, 3), squared(pictures[3]))


def test_ten_bits_are_read_as_eight(tmp_path: Path) -> None:
    write_clip(tmp_path / "v/a.mkv", moving(8), codec="ffv1", pixels="yuv420p10le")
    prepare(tmp_path / "v", tmp_path / "d", SMALL)
    assert close(PreparedDataset(tmp_path / "d").picture(0, 5), squared(moving(8)[5]))


def test_bad_files_get_a_line_each_and_the_rest_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "v"
    good = write_clip(folder / "good.mp4", moving(16))
    whole = write_clip(tmp_path / "whole.mkv", moving(40, colour=2)).read_bytes()
    (folder / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    (folder / "cut.mp4").write_bytes(good.read_bytes()[:-200])
    (folder / "empty.mp4").write_bytes(b"")
    with av.open(str(folder / "frameless.avi"), "w") as container:
        container.add_stream("mpeg4", rate=8).width = 64
        container.start_encoding()
    (folder / "sound.mkv").write_text("1\n00:00:00,000 --> 00:00:01,000\nwords\n")
    report = prepare(folder, tmp_path / "d", SMALL)
    assert [v.video for v in report.kept] == ["cut.mkv", "good.mp4"]
    (cut,) = [v for v in report.kept if v.video == "cut.mkv"]
    assert 0 < cut.num_frames < 40
    assert "of 5.0 s" in "; ".join(cut.notes)
    reasons = {failure.video: failure.reason for failure in report.failures}
    assert set(reasons) == {"cut.mp4", "empty.mp4", "frameless.avi", "sound.mkv"}
    assert reasons["frameless.avi"] == "holds no whole frame"
    assert reasons["sound.mkv"] == "holds no pictures"
    assert all("\n" not in reason for reason in reasons.values())


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_may_not_be_read_gets_a_line(tmp_path: Path) -> None:
    write_clip(tmp_path / "v/good.mp4", moving(16))
    write_clip(tmp_path / "v/secret.mp4", moving(16, colour=2)).chmod(0)
    write_clip(tmp_path / "v/locked/a.mp4", moving(16, colour=2)).parent.chmod(0)
    try:
        reasons = failures(tmp_path / "d", tmp_path / "v")
    finally:
        (tmp_path / "v/locked").chmod(0o700)
    assert reasons.keys() == {"secret.mp4", "locked/"}
    assert all("ermission denied" in reason for reason in reasons.values())


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("a.srt", "no subtitles", "a.srt holds no captions"),
        ("a.json", '{"caption": ', "a.json is malformed JSON"),
        ("a.json", '{"caption": 3}', "a.json holds no captions"),
        ("a.txt", " \n", "a.txt holds no captions"),
    ],
)
def test_captions_that_cannot_be_used_cost_the_video_nothing(
    tmp_path: Path, name: str, text: str, line: str
) -> None:
    write_clip(tmp_path / "v/a.mp4", moving(8))
    (tmp_path / "v" / name).write_text(text)
    (video,) = prepare(tmp_path / "v", tmp_path / "d", SMALL).kept
    assert line in video.notes[0]
    assert (video.num_frames, video.captions) == (8, ())


def test_a_full_disk_keeps_what_is_done_and_the_same_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (64, 64, 3), np.uint8) for _ in range(30)]
    write_clip(tmp_path / "v/a.mp4", moving(8))
    write_clip(tmp_path / "v/big.mp4", noise)
    write_clip(tmp_path / "v/c.mp4", moving(8, colour=5))
    command = ["prepare", str(tmp_path / "v"), "-o", str(tmp_path / "d"), "--workers", "1"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, limits[1]))
    try:
        assert main([*command, "--size", "64", "--format", "png"]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = capsys.readouterr()
    assert "big.mp4: no room to write (file too large)" in said.out
    assert said.err.splitlines()[-1].startswith("nuwaxl: error: the disk is full; make room")
    assert [v.video for v in PreparedDataset(tmp_path / "d").videos] == ["a.mp4", "c.mp4"]
    assert not list((tmp_path / "d").glob("*/*.part"))
    assert main([*command, "--size", "64", "--format", "png"]) == 0
    assert "3 of 3 kept (1 prepared in this run)" in capsys.readouterr().out


def test_a_run_that_was_killed_leaves_no_process_and_goes_on(tmp_path: Path) -> None:
    for number in range(2):
        write_clip(tmp_path / f"v/{number}.mp4", moving(8, colour=number + 1))
    write_clip(tmp_path / "v/long.mp4", moving(500, colour=7, width=96, height=72))
    command = [sys.executable, "-m", "nuwaxl", "prepare", "v", "-o", "d", "--workers", "2"]
    run = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert run.stderr is not None
    assert run.stderr.readline().startswith("[1/3]")
    workers = psutil.Process(run.pid).children(recursive=True)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert not psutil.wait_procs(workers, timeout=30)[1]
    done = [path.name for path in (tmp_path / "d/scans").glob("*.json")]
    assert done  # the long one seldom: a kill may come late on a busy machine
    lines: list[str] = []
    prepare(tmp_path / "v", tmp_path / "d", PrepareConfig(), on_line=lines.append)
    assert lines[0] == f"{len(done)} of 3 videos are read already"
    whole = prepare(tmp_path / "v", tmp_path / "whole", PrepareConfig())
    assert len(whole.kept) == 3
    for name in ("manifest.jsonl", *(f"shards/{v.key}.tar" for v in whole.kept)):
        assert (tmp_path / "d" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_video_that_takes_its_process_down_costs_no_other(tmp_path: Path) -> None:
    names = ["a", "bad", "c"]
    tasks = [ScanTask(name, tmp_path / name, name, tmp_path / name) for name in names]
    outcome = {
        task.video: failure
        for task, failure in scan_all(tasks, SMALL, workers=2, work=crash_on_bad)
    }
    assert outcome["a"] is None
    assert outcome["c"] is None
    assert outcome["bad"] is not None
    assert "ends the process" in outcome["bad"].reason


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nowhere", "-o", "d"], "FOLDER must be a folder with videos, got 'nowhere'"),
        (["empty", "-o", "d"], "FOLDER must hold videos"),
        (["v", "-o", "v"], "`--output` must not be the folder of the videos"),
        (["v", "-o", "v/a.mp4"], "`--output` must be a folder, got the file"),
        (["v", "-o", "full"], "which holds other files: name another"),
        (["v", "-o", "d", "--size", "4"], "`--size` must be from 8 to 4096 pixels, got 4"),
        (["v", "-o", "d", "--fps", "0"], "`--fps` must be above 0"),
        (["v", "-o", "d", "--detector", "best"], "`--detector` must be adaptive, content or none"),
        (["v", "-o", "d", "--format", "bmp"], "`--format` must be jpg, webp or png"),
        (["v", "-o", "d", "--workers", "0"], "`--workers` must be at least 1"),
        (["v", "-o", "d", "--caption-every", "soon"], "`--caption-every` must be 'shot', 'frame'"),
        (["v", "-o", "d", "--captioner", "full"], "`--captioner` must be a folder with a config"),
    ],
)
def test_arguments_that_cannot_be_get_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    line: str,
) -> None:
    for name in ("v/a.mp4", "full/x.txt", "empty/x.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", *arguments]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert line in said
    assert not (tmp_path / "d").exists()


def test_a_dataset_stays_with_the_settings_that_it_was_begun_with(
    prepared: tuple, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output, _ = prepared
    assert main(["prepare", str(folder), "-o", str(output), "--size", "64"]) == 2
    assert "`--size` must stay as it was when" in capsys.readouterr().err
