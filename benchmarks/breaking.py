"""Films of a project that break off: killed at random moments, on a disk that is full.

Two of the proofs of `benchmarks.proofs`.
"""

import argparse
import contextlib
import hashlib
import io
import multiprocessing
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from small_disk import fill, mount_small_disk
from tiny import tiny_pipeline

from nuwaxl.cli import main

COMMAND = "import sys; from nuwaxl.cli import main; sys.exit(main(sys.argv[1:]))"


def project_command(folder: Path, checkpoint: Path, batch_size: int) -> list[str]:
    argv = ["generate", "--project", str(folder), "-o", f"{folder}-png", "--quiet"]
    argv += ["--prompt", "a dog runs", "--length", "226", "--steps", "8", "--device", "cpu"]
    argv += ["--model", str(checkpoint), "--dtype", "float32", "--batch-size", str(batch_size)]
    return [sys.executable, "-c", COMMAND, *argv]


def segments_in(folder: Path) -> int:
    return len(list(folder.glob("segments/*/*.safetensors")))


def digest_of_folder(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(folder.glob("*.png")):
        total.update(path.read_bytes())
    return total.hexdigest()[:16]


def prove_kills(arguments: argparse.Namespace) -> dict[str, Any]:
    """Each time one more run is there a process is killed; no run that was kept is made again.

    A kill meets a random moment between two runs; the film then has each run once in `made.tsv`.
    """
    chance, batch_size, total = random.Random(2), 1, 16
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        tiny_pipeline(segment_length=16).save_pretrained(place / "model")
        command = project_command(place / "film", place / "model", batch_size)
        kills = 0
        while kills < arguments.kills:
            if segments_in(place / "film") >= total - 1:
                shutil.rmtree(place / "film")
            held = segments_in(place / "film")
            process = subprocess.Popen(command)
            while segments_in(place / "film") <= held and process.poll() is None:
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.1))
            process.kill()
            process.wait()
            kills += 1
        kept = segments_in(place / "film")
        subprocess.run(command, check=True)
        rows = (place / "film/segments/made.tsv").read_text().splitlines()[1:]
        keys = [row.split("\t")[1] for row in rows if row.count("\t") == 4]
        assert segments_in(place / "film") == total
        assert len(keys) == len(set(keys)), "a run that was kept is not made again"
        fresh = project_command(place / "fresh", place / "model", batch_size)
        subprocess.run(fresh, check=True)
        digests = {digest_of_folder(place / f"{each}-png") for each in ("film", "fresh")}
        assert len(digests) == 1, digests
    return {
        "kills": kills,
        "kept_at_the_last": kept,
        "kept_runs_made_again": 0,
        "digest": digests.pop(),
    }


def make_on_a_small_disk(disk: Path, checkpoint: Path, answers: Any) -> None:
    """In a process that has a disk for itself: full, full again, then with room."""
    try:
        mount_small_disk(disk, 1 << 20)
    except OSError as error:
        answers.put({"skipped": f"no disk can be mounted here: {error}"})
        return
    argv = project_command(disk / "film", checkpoint, 1)[3:]
    argv[argv.index("-o") + 1] = f"{disk.parent}/film-png"
    told: list[dict[str, Any]] = []
    for leaving in (0, 64 << 10, 90 << 10, None):
        (disk / "ballast").unlink(missing_ok=True)
        if leaving is not None:
            fill(disk, leaving)
        with contextlib.redirect_stderr(io.StringIO()) as said:
            code = main(argv)
        told.append({"code": code, "kept": segments_in(disk / "film"), "said": said.getvalue()})
    answers.put({"tries": told})


def prove_disk(arguments: argparse.Namespace) -> dict[str, Any]:
    """A disk of 1 MiB that is full: one line, nothing lost; with room the film is the same."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "disk").mkdir()
        tiny_pipeline(segment_length=16).save_pretrained(place / "model")
        context = multiprocessing.get_context("fork")
        answers = context.SimpleQueue()
        process = context.Process(
            target=make_on_a_small_disk, args=(place / "disk", place / "model", answers)
        )
        process.start()
        answer = answers.get()
        process.join()
        if "skipped" in answer:
            return answer
        *full, last = answer["tries"]
        kept = [each["kept"] for each in answer["tries"]]
        assert all(each["code"] == 1 and each["said"].count("\n") == 1 for each in full), full
        assert all("No space left on device" in each["said"] for each in full), full
        assert last["code"] == 0, last
        assert kept == sorted(kept)
        # Also in a copy of this process: as many threads, so no other rounding.
        argv = project_command(place / "fresh", place / "model", 1)[3:]
        fresh = context.Process(target=main, args=(argv,))
        fresh.start()
        fresh.join()
        digests = {digest_of_folder(place / f"{each}-png") for each in ("film", "fresh")}
        assert len(digests) == 1, digests
    return {
        "runs_kept": kept,
        "digest": digests.pop(),
        "said": [each["said"].replace(str(place), "").strip() for each in full],
    }
