"""Films that are killed, stopped, or run into a full disk: nothing is lost, and they go on."""

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
import pytest
from oracle import LinearModel, orchestrate
from shell import FIXED, HERE, Shell, changed, runs_made, will_run
from small_disk import fill, mount_small_disk
from tiny import tiny_pipeline

from nuwaxl.cli import main
from nuwaxl.executors.local import SegmentTooLargeError, ThreadedExecutor
from nuwaxl.films.film import Film
from nuwaxl.pictures.codecs import PixelCodec
from nuwaxl.stores.store import MemoryStore
from nuwaxl.tree.timeline import Timeline
from nuwaxl.video import VideoWriter


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


def test_a_killed_film_goes_on_from_where_it_was(shell: Shell, checkpoint: str):
    """Kills a process of its own at several moments; of each, the run in flight is lost at most."""
    argv = ["generate", "--project", "film", "-o", "png", "--prompt", "a dog runs", "--model"]
    argv += [checkpoint, *FIXED, "--device", "cpu", "--dtype", "float32", "--batch-size", "1"]
    for stop_after in (1, 3, 8):
        process = multiprocessing.get_context("fork").Process(target=main, args=(argv,))
        process.start()
        while len(shell.segments()) < stop_after and process.is_alive():
            time.sleep(0.002)
        process.kill()
        process.join()
    num_kept = len(shell.segments())
    assert num_kept >= 8
    out = shell(*argv)
    assert will_run(out) == runs_made(out) == len(shell.segments()) - num_kept
    whole = shell.frames()
    fresh = list(argv)
    fresh[2], fresh[4] = "fresh", "fresh_png"
    shell(*fresh)
    assert changed(whole, shell.frames("fresh_png")) == []
    assert not list(Path("film").rglob("*.part"))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (OSError(28, "No space left on device"), 1),
        (SegmentTooLargeError("One segment does not fit into memory: use a smaller one."), 1),
    ],
)
def test_what_breaks_off_says_what_is_kept_and_how_to_go_on(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
):
    from nuwaxl.stores.disk import DiskStore

    write = DiskStore._write

    def break_off(store: DiskStore, path: str, content: bytes) -> None:
        if len(shell.segments()) == 5:
            raise error
        write(store, path, content)

    monkeypatch.setattr(DiskStore, "_write", break_off)
    line = shell.begin("--batch-size", "1", code=code)
    assert "runs were done and are kept; `nuwaxl generate --project film` goes on." in line
    monkeypatch.setattr(DiskStore, "_write", write)
    out = shell("generate", "--project", "film", *HERE)
    assert runs_made(out) == len(shell.segments()) - 5
    assert len(shell.frames()) == 40


def wait_for_segments(shell: Shell, count: int, process: subprocess.Popen) -> None:
    while len(shell.segments()) < count:
        assert process.poll() is None, "it ended before it could be stopped"
        time.sleep(0.002)


def test_ctrl_c_keeps_what_is_done_and_a_second_process_is_refused_meanwhile(shell: Shell):
    argv = ("generate", "--project", "film", "-o", "png", "--prompt", "a dog runs", "--model",
            shell.checkpoint, "--length", "40", "--steps", "20", "--device", "cpu",
            "--dtype", "float32", "--batch-size", "1")  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "nuwaxl", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        # A shell starts background jobs with Ctrl-C ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for_segments(shell, 3, process)
    process.send_signal(signal.SIGSTOP)
    held = f"film is in use by process {process.pid} on "
    edit = ("edit", "film", "--at", "1s..2s", "--prompt", "a cat", *HERE)
    for second in (("generate", "--project", "film", *HERE), edit):
        assert held in shell(*second, code=2)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    num_kept, num_all = len(shell.segments()), will_run(out)
    assert err == (
        f"nuwaxl: stopped: {num_kept} of {num_all} runs were done and are kept; "
        "`nuwaxl generate --project film` goes on.\n"
    )
    assert 3 <= num_kept < num_all
    assert not list(Path("film").rglob("*.part"))
    assert not Path("png").exists()
    out = shell("generate", "--project", "film", *HERE)
    assert will_run(out) == runs_made(out) == num_all - num_kept
    assert len(shell.frames()) == 40


def test_two_processes_that_begin_at_once_make_one_film(shell: Shell, checkpoint: str):
    argv = ["generate", "--project", "film", "-o", "png", "--prompt", "a dog runs", "--model"]
    argv += [checkpoint, *FIXED, *HERE]
    context = multiprocessing.get_context("fork")
    codes = context.SimpleQueue()
    processes = [context.Process(target=lambda: codes.put(main(list(argv)))) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    # The second is refused, or begins when the first is done and finds all runs there.
    assert sorted(codes.get() for _ in processes) in ([0, 2], [0, 0])
    rows = Path("film/segments/made.tsv").read_text().splitlines()[1:]
    assert len(rows) == len(shell.segments()) == runs_made_by(rows)
    assert len(shell("log", "film").splitlines()) == 1
    assert runs_made(shell("generate", "--project", "film", *HERE)) == 0


def runs_made_by(rows: list[str]) -> int:
    return len({row.split("\t")[1] for row in rows})


def test_what_a_worker_has_in_hand_is_kept_when_an_error_ends_the_film():
    """Such as Ctrl-C while a picture is decoded: the error still holds what asked for the run."""
    timeline = Timeline(17, 5)
    first, second = list(timeline.level(1))[:2]
    begun, go_on = threading.Event(), threading.Event()

    class AllButTheFirstWait(LinearModel):
        def generate(self, jobs, given_latents):
            if jobs[0].segment.level == 1 and jobs[0].segment != first:
                begun.set()
                assert go_on.wait(30)
            return super().generate(jobs, given_latents)

    class Interrupted(PixelCodec):
        def decode(self, windows):
            assert begun.wait(30)  # the second run, which began beside the first
            threading.Timer(0.1, go_on.set).start()
            raise KeyboardInterrupt

    executor = ThreadedExecutor([AllButTheFirstWait(), AllButTheFirstWait()])
    orchestrator = orchestrate(timeline, executor, MemoryStore(keep_released=True))
    film = Film(orchestrator, Interrupted(), windows_per_batch=1)
    with pytest.raises(KeyboardInterrupt) as stopped, film:
        list(film.frames())
    assert stopped.value.__traceback__ is not None
    assert orchestrator.job(second).key in orchestrator.store


# ---- A full disk ----------------------------------------------------------------------------

ROOM = 200 * 1024  # for some of the film's files, of 4 kB each, and what else is in its folder


def make_on_a_small_disk(results, disk: Path, argv: list[str]) -> None:
    try:
        mount_small_disk(disk, ROOM)
    except OSError as error:
        results.put(f"no disk can be mounted here: {error}")
        return
    os.chdir(disk)
    seen = []
    for leaving in (0, 60 * 1024, None):
        ballast = disk / "ballast"
        ballast.unlink(missing_ok=True)
        if leaving is not None:
            fill(disk, leaving)
        with redirect_stderr(io.StringIO()) as said:
            code = main(list(argv))
        sound = len(list(disk.glob("film/segments/*/*.safetensors")))
        seen.append((code, sound, said.getvalue()))
    # Without a folder, there is only the film's own file to have no room.
    fill(disk, 0)
    with redirect_stderr(io.StringIO()) as said:
        code = main(["generate", "-o", "late.mp4", *argv[5:]])
    late = code, len(list(disk.glob("*late*"))), said.getvalue()
    results.put((seen, late))


def test_a_disk_that_is_really_full_is_one_clear_line_and_the_film_goes_on(
    shell: Shell, checkpoint: str
):
    disk = shell.folder / "disk"
    disk.mkdir()
    argv = ["generate", "--project", "film", "-o", str(shell.folder / "png"), "--prompt", "a dog",
            "--model", checkpoint, "--length", "40", "--steps", "1", "--device", "cpu",
            "--dtype", "float32", "--batch-size", "1"]  # fmt: skip
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    process = context.Process(target=make_on_a_small_disk, args=(results, disk, argv))
    process.start()
    process.join()
    assert process.exitcode == 0
    seen = results.get()
    if isinstance(seen, str):
        pytest.skip(seen)
    (*full, (code, num_runs, said)), late = seen
    for failed, _, line in full:
        assert failed == 1
        assert line.count("\n") == 1, line
        assert "No space left on device" in line
    assert "make space and run the same again" in full[-1][2]
    assert "; `nuwaxl generate --project film` goes on." in full[-1][2]
    assert 0 < full[-1][1] < num_runs
    assert (code, said) == (0, "")
    code, num_files, line = late
    assert (code, num_files) == (1, 0)
    assert line.count("\n") == 1, line
    assert line.startswith("nuwaxl: error: late.mp4 was not written: ")
    assert "No space left on device" in line
    assert len(shell.frames()) == 40


def write_with_little_room(results, path: str) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    noise = np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3), dtype=np.uint8)
    try:
        with VideoWriter(path, 8) as writer:
            for frame in noise:
                writer.write(frame)
    except OSError as error:
        results.put(error.strerror)
    else:
        results.put("written")


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of a file's size")
@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.webm", "film.gif", "film"])
def test_a_film_that_does_not_fit_is_an_error_and_never_taken_for_whole(tmp_path: Path, name: str):
    """FFmpeg by itself calls an .mp4 written of which nothing but the header is there."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    process = context.Process(target=write_with_little_room, args=(results, str(tmp_path / name)))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert results.get() == "File too large"
    assert list(tmp_path.iterdir()) == []
