"""The whole evaluation on tiny random networks, and what it refuses."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
import weakref
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from rich.console import Console
from tiny import tiny_pipeline
from typer.testing import CliRunner

import nuwaxl.cli.evaluate as command
from nuwaxl.cli.errors import CommandError
from nuwaxl.config import ConfigError
from nuwaxl.denoising.sampling import SamplingConfig
from nuwaxl.evaluation.evaluate import Evaluation, evaluate
from nuwaxl.evaluation.features import Readers, load_readers
from nuwaxl.evaluation.measuring import measure_film
from nuwaxl.evaluation.plots import line_plot
from nuwaxl.evaluation.probe import Probe, Reading, class_names
from nuwaxl.evaluation.report import page, write_report
from nuwaxl.evaluation.rows import make_row, render_film
from nuwaxl.evaluation.settings import ROWS, EvaluationConfig, read_world
from nuwaxl.evaluation.stories import KnownFilm, known_film, sample_films
from nuwaxl.evaluation.table import lines_of, probe_line, terminal_tables
from nuwaxl.toon import Scene, Story

FACTS: dict[str, object] = {"accuracy": {"renders": {"actor": 0.99}}}


@pytest.fixture(scope="module")
def done() -> Evaluation:
    torch.manual_seed(0)
    config = EvaluationConfig(
        stories=1,
        lengths=(24,),
        rows=ROWS,
        sampling=SamplingConfig(num_inference_steps=1, guidance_scale=1.0),
    )
    readers = load_readers(config, torch.device("cpu"))
    return evaluate(config, readers, probe_facts=FACTS, pipeline=tiny_pipeline())


def test_every_row_has_every_number(done: Evaluation) -> None:
    assert [line.row for line in done.rows] == list(ROWS)
    for line in done.rows:
        flat = line.score.flat()
        assert {entry.key for entry in lines_of(done)} <= set(flat)
        assert set(line.score.distances) == {"probe", "efficientnet"}
        for distances in line.score.distances.values():
            assert (distances.avg_fd > 1e-3) == (line.row != "real")
            assert len(distances.block_fd_by_position) == 4
        assert {len(parts) for parts in line.score.accuracy_over_time.values()} == {16}
        assert line.strip.shape == (12, 16, 16, 3)
    runs = {
        line.row: (line.score.effort.num_runs, line.score.effort.critical_path)
        for line in done.rows
    }
    assert runs["real"] == runs["autoencoder"] == (0, 0)
    assert runs["sequential"][0] == runs["sequential"][1] > runs["tree"][1]
    assert runs["local"] == (runs["tree"][0] - 1, runs["tree"][1] - 1)


def test_what_needs_weights_of_the_users_is_left_out_of_the_table(done: Evaluation) -> None:
    line = done.rows[0]
    assert line.score.fid is line.score.fvd is line.score.clip_score is None
    assert not {"fid", "fvd", "clip_score"} & {entry.key for entry in lines_of(done)}


def test_the_report_is_json_a_table_and_one_page(done: Evaluation, tmp_path: Path) -> None:
    json_file, html_file = write_report(done, tmp_path / "report")
    content = json.loads(json_file.read_text())
    assert [line["row"] for line in content["rows"]] == list(ROWS)
    assert content["probe"] == FACTS
    text = html_file.read_text()
    HTMLParser().feed(text)
    assert text.count("<img ") == len(ROWS)
    assert text.count("<svg ") == 2  # quarters of so short a film hold less than two blocks
    assert "http" not in text  # nothing is fetched
    assert sorted(path.name for path in json_file.parent.iterdir()) == [
        "report.html",
        "report.json",
    ]
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for grid in terminal_tables(done):
        console.print(grid)
    shown = console.export_text()
    for entry in lines_of(done):
        assert entry.heading in shown
        assert entry.heading in text
        assert html.escape(entry.meaning) in text


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = os.environ.get("NUWAXL_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
SEEN = """<script>addEventListener("load", () => { document.title = JSON.stringify({
  images: [...document.images].map(image => image.naturalWidth),
  plots: [...document.querySelectorAll("svg")].map(svg => svg.getBoundingClientRect().height),
  lines: document.querySelectorAll("tbody tr").length,
  sideways: document.documentElement.scrollWidth - innerWidth,
}) })</script>"""


@pytest.mark.skipif(
    BROWSER is None, reason="no Chromium or Chrome on PATH, and NUWAXL_BROWSER names none"
)
@pytest.mark.parametrize("width", [1240, 480])
def test_the_page_opens_in_a_browser(done: Evaluation, tmp_path: Path, width: int) -> None:
    """Every strip and plot is drawn, and nothing reaches over the side, also on a narrow screen."""
    assert BROWSER is not None
    _, path = write_report(done, tmp_path)
    path.write_text(path.read_text().replace("</html>", SEEN + "</html>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    opened = subprocess.run(
        [BROWSER, *flags, f"--window-size={width},900", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=300,
    )
    title = re.search("<title>(.*)</title>", opened.stdout)
    assert title is not None, opened.stderr
    seen = json.loads(html.unescape(title[1]))
    assert seen["images"] == [12 * (16 + 3)] * len(ROWS)
    assert len(seen["plots"]) == 2
    assert min(seen["plots"]) > 100
    assert seen["lines"] == len(lines_of(done))
    assert seen["sideways"] <= 0


def test_the_page_names_the_probes_own_accuracy(done: Evaluation) -> None:
    assert "probe on renders: actor 99.0%" in page(done)
    assert probe_line({"held_out": {"actor": 0.5}}) == "probe on held_out: actor 50.0%"


def test_a_plot_leaves_a_gap_where_nothing_was_measured() -> None:
    plot = line_plot("a < b", {"tree": [0.5, None, 1.0]}, x_label="time")
    assert "a &lt; b" in plot
    assert plot.count("<circle ") == 2  # each stands alone
    joined = line_plot("a", {"tree": [0.5, 0.6, None, 1.0]}, x_label="time")
    assert joined.split('points="')[1].split('"')[0].count(",") == 2


def test_the_same_arguments_give_the_same_stories() -> None:
    first, again = (sample_films(2, 40, seed=3, fps=8.0) for _ in range(2))
    assert first == again
    assert sample_films(1, 40, seed=4, fps=8.0)[0] != first[0]
    said = sample_films(1, 40, seed=3, fps=8.0, paraphrase=True)[0]
    assert said.storyline != first[0].storyline


def short_scenes(num_scenes: int) -> KnownFilm:
    """Scenes of two seconds."""
    scenes = [
        Scene("dog", "meadow", "day", "run", "right", 2.0 * i, 2.0) for i in range(num_scenes)
    ]
    return known_film(Story(tuple(scenes), 2.0 * num_scenes), 16 * num_scenes, 8.0)


def test_a_film_is_measured_while_it_is_made_and_no_more_than_two_scenes_of_it_are_held() -> None:
    class Blind(Probe):
        def read(self, frames, scenes=None):
            classes = {name: np.zeros(len(frames), int) for name in class_names()}
            return Reading(
                np.zeros((len(frames), 2), np.float32), classes, np.zeros((len(frames), 2))
            )

    film = short_scenes(6)
    alive: set[int] = set()
    most = 0

    def watched(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        nonlocal most
        for number, frame in enumerate(frames):
            alive.add(number)
            weakref.finalize(frame, alive.discard, number)
            most = max(most, len(alive))
            yield frame

    made = make_row("real", film, segment_length=16, size=128)
    made.frames = watched(made.frames)
    measured = measure_film(made, film, Readers(Blind().eval()), shown=(0, 95))
    assert most <= 2 * 16 + 1
    assert measured.shown.shape == (2, 128, 128, 3)
    assert made.seconds > 0


def test_a_film_that_is_too_short_is_refused() -> None:
    film = short_scenes(2)
    frames = list(render_film(film))[:20]
    with pytest.raises(ValueError, match="`frames` must be 32, as the story has, got 20"):
        measure_film(frames, film, Readers(Probe().eval()))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"rows": ("real", "trees")}, "`rows` must be among"),
        ({"lengths": (8,)}, "`lengths` must be numbers of frames from 16 up"),
        ({"stories": 0}, "`stories` must be at least 1"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"features": ("efficientnet",)}, "`features` must be 'probe' alone or with others"),
        ({"features": ("probe", "inception")}, "`features` must be 'probe' alone or with others"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        EvaluationConfig(**changes)


def test_a_row_without_its_networks_is_refused() -> None:
    film = sample_films(1, 16, seed=0, fps=8.0)[0]
    for row, need in (("tree", "needs a model"), ("autoencoder", "an autoencoder")):
        with pytest.raises(ValueError, match=need):
            make_row(row, film, segment_length=16, size=128)


def test_a_model_may_say_what_world_it_knows(tmp_path: Path) -> None:
    assert read_world(tmp_path) == ((), ())
    (tmp_path / "world.json").write_text('{"actors": ["dog"], "backgrounds": ["beach"]}')
    assert read_world(tmp_path) == (("dog",), ("beach",))
    (tmp_path / "world.json").write_text("dog")
    with pytest.raises(ValueError, match="must hold actors and backgrounds"):
        read_world(tmp_path)


def invoke(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(command.evaluate)
    return CliRunner().invoke(app, list(arguments))


def test_the_command_measures_real_renders_without_a_model(tmp_path: Path) -> None:
    Probe().save(tmp_path / "probe", FACTS)
    result = invoke(
        *("--probe", str(tmp_path / "probe"), "--output", str(tmp_path / "out")),
        *("--rows", "real", "--lengths", "16,24", "--stories", "1", "--actors", "dog"),
        *("--features", "probe", "--held-out"),
    )
    assert result.exit_code == 0, result.output
    assert " 20 %  real, 16 frames, film 1 of 1" in result.output
    assert "probe on renders: actor 99.0%" in result.output
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [line["num_frames"] for line in content["rows"]] == [16, 24]
    assert content["config"]["held_out"] is True


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--rows", "trees"], "`--rows` must be among"),
        (["--lengths", "many"], "`--lengths` must be numbers of frames"),
        (["--rows", "autoencoder", "--vae", "nowhere"], "`--vae` must be a folder"),
        (["--rows", "tree", "--model", "nowhere"], "no model_index.json"),
        (["storys=3"], "unknown setting `storys`"),
        (["--features", "fid"], "`--features` must be 'probe' alone"),
        (["--probe", "tests"], "`--probe` must be a folder that holds a probe"),
        (["--inception", "nowhere.pt"], "`--inception` must be a file with the weights"),
        (["--video-network", "nowhere"], "`--video-network` must be an I3D file"),
        (["--clip", "./nowhere"], "`--clip` must be CLIP: a folder of transformers"),
    ],
)
def test_the_command_refuses_in_one_line(arguments: list[str], line: str) -> None:
    result = invoke(*arguments)
    assert isinstance(result.exception, CommandError | ConfigError)
    assert line in str(result.exception)
    assert "\n" not in str(result.exception)


def test_what_is_wrong_with_arguments_is_said_before_torch_is_loaded() -> None:
    code = (
        "import sys; from nuwaxl.cli.app import main;"
        "code = main(['evaluate', '--clip', 'nowhere']);"
        "sys.exit(10 * ('torch' in sys.modules) + code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("nuwaxl: error: `--clip` must be CLIP")
    assert done.stderr.count("\n") == 1


def test_features_whose_packages_are_missing_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "nuwaxl.evaluation.settings.EFFICIENTNET_PACKAGES", ("nowhere_to_be_found",)
    )
    result = invoke("--rows", "real")
    assert "needs `pip install 'nuwaxl[evaluation]'`" in str(result.exception)
