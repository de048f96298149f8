import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from nuwaxl.cli import main
from nuwaxl.cli.plan import spell_time

DOG = ["--prompt", "a dog runs across the beach at sunset"]
OVERLAP = "- {prompt: a dog, start: 0s, end: 5s}\n- {prompt: a cat, start: 3s, end: 8s}\n"


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line on stderr."""
        assert self.err.count("\n") == 1, self.err
        return self.err.rstrip("\n")


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Run a command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*argv: str) -> Result:
        code = main(argv)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


Run = Callable[..., Result]

BAD_INPUT = {
    "empty prompt": (["--prompt", " ", "--length", "16"], ["--prompt", "not empty", "' '"]),
    "length 0": ([*DOG, "--length", "0"], ["--length", "'0'"]),
    "length -5": ([*DOG, "--length", "-5"], ["--length", "'-5'"]),
    "length abc": ([*DOG, "--length", "abc"], ["--length", "'abc'", "2m30s"]),
    "length 1e9": ([*DOG, "--length", "1e9"], ["--length", "1,000,000,000", "--yes"]),
    "fps 0": ([*DOG, "--length", "16", "--fps", "0"], ["--fps", "above 0", "got 0"]),
    "fps abc": ([*DOG, "--length", "16", "--fps", "abc"], ["--fps", "'abc'", "--help"]),
    "fps 1000": ([*DOG, "--length", "16", "--fps", "1000"], ["--fps", "240", "1000"]),
    "unknown option": ([*DOG, "--lenght", "16"], ["`--lenght`", "did you mean `--length`?"]),
    "option without value": ([*DOG, "--length"], ["--length", "requires an argument"]),
    "no prompt": (["--length", "16"], ["--prompt", "--story"]),
    "no length": ([*DOG], ["--length", "--depth"]),
    "prompt and story": ([*DOG, "--story", "s.yaml"], ["--prompt", "--story", "not both"]),
    "depth too small": (
        [*DOG, "--length", "3376", "--depth", "2"],
        ["--depth", "at least 3", "got 2"],
    ),
    "depth too large": ([*DOG, "--length", "16", "--depth", "9"], ["--depth", "at most", "got 9"]),
    "depth 0": ([*DOG, "--depth", "0"], ["--depth", "1 or more", "got 0"]),
    "missing story": (["--story", "none.yaml"], ["story", "'none.yaml'", "no such file"]),
    "missing config": ([*DOG, "--length", "16", "--config", "none.yaml"], ["'none.yaml'"]),
    "unknown setting": (
        [*DOG, "--length", "16", "sampling.guidance_scal=3"],
        ["`sampling.guidance_scal`", "did you mean `sampling.guidance_scale`?"],
    ),
    "forgotten quotes": (["--prompt", "a", "dog", "--length", "16"], ["key=value", "'dog'"]),
    "steps 0": ([*DOG, "--length", "16", "--steps", "0"], ["--steps", "0"]),
    "unknown scheduler": (
        [*DOG, "--length", "16", "--scheduler", "dpm"],
        ["--scheduler", "ddim", "'dpm'"],
    ),
    "unknown device": ([*DOG, "--length", "16", "--device", "gpu"], ["--device", "'gpu'", "cuda"]),
    "unknown dtype": ([*DOG, "--length", "16", "--dtype", "half"], ["--dtype", "'half'"]),
    "batch size 0": ([*DOG, "--length", "16", "--batch-size", "0"], ["--batch-size", "got 0"]),
    "no such folder": ([*DOG, "--length", "16", "-o", "none/film.mp4"], ["'none'", "not exist"]),
    "no folder": ([*DOG, "--length", "16", "-o", "file/film.mp4"], ["'file'", "not a folder"]),
    "unknown ending": ([*DOG, "--length", "16", "-o", "film.avi"], ["'.avi'", ".mp4"]),
    "existing output": ([*DOG, "--length", "16", "-o", "old.mp4"], ["'old.mp4'", "--overwrite"]),
    "sheet ending": ([*DOG, "--length", "16", "--contact-sheet", "s.mp4"], ["--contact-sheet"]),
    "sheet exists": (
        [*DOG, "--length", "16", "--contact-sheet", "old.png"],
        ["--contact-sheet", "'old.png'", "--overwrite"],
    ),
    "no model folder": ([*DOG, "--length", "16", "--model", "none"], ["--model", "'none'"]),
    "no checkpoint": ([*DOG, "--length", "16", "--model", "."], ["--model", "model_index.json"]),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_line_and_exit_code_2(run: Run, tmp_path: Path, name: str) -> None:
    for existing in ("old.mp4", "old.png", "file", "s.yaml"):
        (tmp_path / existing).write_text("- a dog\n")
    argv, expected = BAD_INPUT[name]
    result = run("generate", *argv)
    assert result.code == 2
    assert result.out == ""
    assert result.line.startswith("nuwaxl: error: ")
    for part in expected:
        assert part in result.line, result.line
    assert (tmp_path / "old.mp4").read_text() == "- a dog\n"
    assert not (tmp_path / "film.mp4").exists()


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        ("scenes:\n- prompt: [\n", ["line 3", "malformed YAML"]),
        (OVERLAP, ["s.yaml", "overlap"]),
        ("scenes: [a dog]\nfps: 0\n", ["`fps`", "above 0"]),
        ("scenes: [a dog]\n", ["--length", "durations in the story"]),
        ("scenes: [{prompt: a, duration: x}]\n", ["s.yaml", "'x'"]),
    ],
)
def test_a_bad_story_is_one_line(run: Run, tmp_path: Path, story: str, expected: list[str]) -> None:
    (tmp_path / "s.yaml").write_text(story)
    result = run("generate", "--story", "s.yaml")
    assert result.code == 2
    for part in expected:
        assert part in result.line


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["genrate"], ["`genrate`", "did you mean `generate`?"]),
        (["--quite"], ["`--quite`", "nuwaxl --help"]),
        (["train", "local"], ["CONFIG", "nuwaxl train --help"]),
        (["train", "locale", "c.yaml"], ["STAGE", "'locale'", "did you mean `local`?"]),
        (["train", "local", "none.yaml"], ["'none.yaml'", "no such file"]),
        (["train", "local", "c.yaml", "loop.max_steps"], ["key=value", "'loop.max_steps'"]),
        (["plan"], ["--length", "--depth"]),
        (["plan", "--length", "9", "--segment-length", "0"], ["`segment_length`", "got 0"]),
        (["plan", "--length", "9", "--workers", "0"], ["--workers", "got 0"]),
        (["plan", "--length", "9", "--seconds-per-run", "0"], ["--seconds-per-run", "got 0"]),
    ],
)
def test_other_commands_fail_in_one_line(
    run: Run, tmp_path: Path, argv: list[str], expected: list[str]
) -> None:
    (tmp_path / "c.yaml").write_text("loop: {max_steps: 1}\n")
    result = run(*argv)
    assert result.code == 2
    for part in expected:
        assert part in result.line, result.line


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--help"], 0),
        (["generate", "--help"], 0),
        (["plan", "--depth", "3"], 0),
        (["generate", *DOG, "--length", "0"], 2),
        (["generate", *DOG, "--length", "9", "-o", "none/film.mp4"], 2),
        (["generate", *DOG, "--length", "9", "--model", "."], 2),
        (["train", "local", "none.yaml"], 2),
    ],
)
def test_torch_is_not_loaded_for(argv: list[str], code: int, tmp_path: Path) -> None:
    check = (
        "import sys; from nuwaxl.cli import main; code = main(sys.argv[1:]); "
        "assert not {'torch', 'numpy', 'diffusers', 'transformers'} & set(sys.modules); "
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", check, *argv], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_waiting_threads_sleep_soon_unless_told_otherwise(
    given: dict[str, str], spins: str | None, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    run("plan", "--depth", "1")
    assert os.environ.get("GOMP_SPINCOUNT") == spins


def test_help_answers_at_once() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "nuwaxl", "--help"], capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert {"generate", "plan", "train"} <= set(done.stdout.split())
    # 0.3 s of processor time by itself; the rest is for a machine busy with other tests.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2.0


@pytest.mark.parametrize(
    ("depth", "num_frames", "runs"),
    [(1, 16, [1]), (2, 226, [1, 15]), (3, 3376, [1, 15, 225]), (4, 50626, [1, 15, 225, 3375])],
)
def test_plan_counts_as_the_paper(run: Run, depth: int, num_frames: int, runs: list[int]) -> None:
    plan = json.loads(run("plan", "--depth", str(depth), "--json").out)
    assert plan["num_frames"] == num_frames
    assert [level["runs"] for level in plan["levels"]] == runs
    assert [level["spacing_frames"] for level in plan["levels"]] == [
        15 ** (depth - 1 - level) for level in range(depth)
    ]
    assert sum(level["new_frames"] for level in plan["levels"]) == num_frames
    assert plan["runs"] == sum(runs)
    assert plan["critical_path"] == depth
    assert plan["frames_evaluated"] == 16 * sum(runs)


def test_workers_shorten_each_level_by_itself(run: Run) -> None:
    argv = ["plan", "--depth", "3", "--seconds-per-run", "2", "--json", "--workers"]
    assert json.loads(run(*argv, "1").out)["expected_seconds"] == 2 * 241
    assert json.loads(run(*argv, "15").out)["expected_seconds"] == 2 * (1 + 1 + 15)
    assert json.loads(run(*argv, "1000").out)["expected_seconds"] == 2 * 3


def test_plan_of_any_length_answers_at_once(run: Run) -> None:
    for length in ("1", "2", "3", "17", "1000", "1e9"):
        plan = json.loads(run("plan", "--length", length, "--json").out)
        assert plan["num_frames"] == int(float(length))
        assert sum(level["new_frames"] for level in plan["levels"]) == plan["num_frames"]


def test_plan_shows_a_table(run: Run) -> None:
    result = run("plan", "--length", "30s", *DOG)
    assert result.code == 0
    assert "240 frames, 30 s at 8 fps" in result.out
    assert "0 (global)" in result.out
    assert "frames evaluated per frame" in result.out


def test_settings_win_in_the_stated_order(run: Run, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("fps: 1\nlength: 1s\nscenes: [a dog]\n")
    (tmp_path / "c.yaml").write_text("fps: 2\n")
    story, config = ["--story", "s.yaml"], ["--config", "c.yaml"]

    def fps(*argv: str) -> float:
        return json.loads(run("plan", "--json", *argv).out)["fps"]

    assert fps("--length", "9") == 8
    assert fps(*story) == 1
    assert fps(*story, *config) == 2
    assert fps(*story, *config, "fps=3") == 3
    assert fps(*story, *config, "fps=3", "--fps", "4") == 4


def test_a_story_with_durations_tells_the_length(run: Run, tmp_path: Path) -> None:
    scenes = "- {prompt: a dog, duration: 4s}\n- {prompt: a cat, duration: 2.5s}\n"
    (tmp_path / "s.yaml").write_text(scenes)
    plan = json.loads(run("plan", "--story", "s.yaml", "--json").out)
    assert plan["num_frames"] == 52
    assert plan["scenes"] == [[0, "a dog"], [4, "a cat"]]


def test_prompts_share_the_film(run: Run) -> None:
    argv = ["--prompt", "a dog", "--prompt", "a cat", "--length", "10s"]
    plan = json.loads(run("plan", *argv, "--json").out)
    assert plan["scenes"] == [[0, "a dog"], [5, "a cat"]]


def test_version_and_bare_command(run: Run) -> None:
    assert run("--version").out.startswith("nuwaxl 0.")
    assert "Usage" in run().out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "0.5 s"), (59.6, "59.6 s"), (150, "2 min 30 s"), (3600, "1 h"), (90000, "1 d 1 h")],
)
def test_times_are_spelled(seconds: float, text: str) -> None:
    assert spell_time(seconds) == text
