"""The whole evaluation on tiny random networks, and what it refuses."""

import json
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
from nuwaxl.evaluation.evaluate import Evaluation, EvaluationConfig, evaluate, read_world
from nuwaxl.evaluation.plots import line_plot
from nuwaxl.evaluation.probe import Probe
from nuwaxl.evaluation.report import COLUMNS, page, probe_line, table, write_report
from nuwaxl.evaluation.rows import ROWS, make_row, render_film
from nuwaxl.evaluation.scoring import score_row
from nuwaxl.evaluation.stories import sample_films
from nuwaxl.sampling import SamplingConfig

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
    return evaluate(config, Probe(), probe_facts=FACTS, pipeline=tiny_pipeline())


def test_every_row_has_every_number(done: Evaluation) -> None:
    assert [line.row for line in done.rows] == list(ROWS)
    for line in done.rows:
        flat = line.score.flat()
        assert set(COLUMNS) == set(flat)
        assert flat["avg_fd"] >= 0
        assert len(line.score.accuracy_over_time) == 16
        assert line.strip.shape == (12, 16, 16, 3)
    runs = {line.row: (line.score.num_runs, line.score.critical_path) for line in done.rows}
    assert runs["real"] == runs["autoencoder"] == (0, 0)
    assert runs["sequential"][0] == runs["sequential"][1] > runs["tree"][1]


def test_the_report_is_json_a_table_and_one_page(done: Evaluation, tmp_path: Path) -> None:
    json_file, html_file = write_report(done, tmp_path / "report")
    content = json.loads(json_file.read_text())
    assert [line["row"] for line in content["rows"]] == list(ROWS)
    assert content["probe"] == FACTS
    text = html_file.read_text()
    HTMLParser().feed(text)
    assert text.count("<img ") == len(ROWS)
    assert text.count("<svg ") == 2
    assert "http" not in text  # nothing is fetched
    assert sorted(path.name for path in json_file.parent.iterdir()) == [
        "report.html",
        "report.json",
    ]
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(done))
    shown = console.export_text()
    assert all(heading in shown for heading, _, _ in COLUMNS.values())


def test_the_page_names_the_probes_own_accuracy(done: Evaluation) -> None:
    assert "probe on renders: actor 99.0%" in page(done)
    assert probe_line({"held_out": {"actor": 0.5}}) == "probe on held_out: actor 50.0%"


def test_a_plot_leaves_a_gap_where_nothing_was_measured() -> None:
    plot = line_plot("a < b", {"tree": [0.5, None, 1.0]}, x_label="time")
    assert "a &lt; b" in plot
    assert plot.split('points="')[1].split('"')[0].count(",") == 2


def test_the_same_arguments_give_the_same_stories() -> None:
    first, again = (sample_films(2, 40, seed=3, fps=8.0) for _ in range(2))
    assert first == again
    assert sample_films(1, 40, seed=4, fps=8.0)[0] != first[0]
    said = sample_films(1, 40, seed=3, fps=8.0, paraphrase=True)[0]
    assert said.storyline != first[0].storyline


def test_a_wrong_actor_lowers_the_accuracy_of_the_actor_alone() -> None:
    """With a probe that is always right about real frames."""
    film = sample_films(1, 32, seed=0, fps=8.0, actor_names=("dog", "cat"))[0]
    made = make_row("real", film, segment_length=16, size=128)

    class Oracle(Probe):
        def read(self, frames, scenes=None):
            reading = super().read(frames, scenes)
            labels = film.labels
            changed = (frames != render_film(film)).any(axis=(1, 2, 3))
            labels["actor"] = np.where(changed, labels["actor"] + 1, labels["actor"])
            return type(reading)(reading.features, labels, reading.position)

    probe = Oracle().eval()
    reference = [probe.read_frames(made.frames)[0].numpy()]
    right = score_row([made], [film], probe, reference)
    assert right.accuracy["all"] == right.accuracy["actor"] == right.identity_kept == 1.0
    assert right.avg_fd == pytest.approx(0.0, abs=1e-3)
    frames = made.frames.copy()
    frames[-8:, 40:60, 40:60] = 0
    wrong = score_row([type(made)(frames, made.boundaries, 0.0, 0, 0)], [film], probe, reference)
    assert wrong.accuracy["actor"] == wrong.accuracy["all"] == 0.75
    assert wrong.accuracy["background"] == 1.0
    assert wrong.drift_accuracy == 1.0


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"rows": ("real", "trees")}, "`rows` must be among"),
        ({"lengths": (8,)}, "`lengths` must be numbers of frames from 16 up"),
        ({"stories": 0}, "`stories` must be at least 1"),
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
        "--held-out",
    )
    assert result.exit_code == 0, result.output
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
    ],
)
def test_the_command_refuses_in_one_line(arguments: list[str], line: str) -> None:
    result = invoke(*arguments)
    assert isinstance(result.exception, CommandError | ConfigError)
    assert line in str(result.exception)
    assert "\n" not in str(result.exception)
