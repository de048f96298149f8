"""Settings of the sampler against each other, on tiny random networks."""

import json
from pathlib import Path

import pytest
from tiny import tiny_pipeline

from benchmarks.sweep import evaluations_per_frame, main, read_setting
from nuwaxl.denoising.sampling import SamplingConfig
from nuwaxl.evaluation.plots import scatter_plot
from nuwaxl.evaluation.probe import Probe
from nuwaxl.evaluation.stories import known_film
from nuwaxl.toon import Scene, Story


def test_a_setting_says_steps_and_guidance_of_both_roles() -> None:
    told = {"scheduler": "unipc", "local_num_inference_steps": 4}
    for text, local in (("1", (1.0, 1.0)), ("3@0.25", (3.0, 0.25))):
        scale, stop = local
        assert read_setting(f"unipc:8/4:2.5/{text}") == SamplingConfig(
            8, 2.5, local_guidance_scale=scale, local_guidance_stop=stop, **told
        )
    for text in ("ddim", "ddim:8:2", "dim:8/4:2/1", "ddim:0/4:2/1"):
        with pytest.raises(ValueError, match=r"must be"):
            read_setting(text)


def test_work_is_counted_run_by_run() -> None:
    """Ten frames in runs of four: four keyframes, then three runs of four with both ends given."""
    scene = Scene("dog", "meadow", "day", "run", "right", 0.0, 4.0)
    film = known_film(Story((scene,), 4.0), 10, 8.0)
    pipeline = tiny_pipeline()
    plain, guided = read_setting("ddim:6/3:1/1"), read_setting("ddim:6/3:2/1")
    assert evaluations_per_frame(pipeline, film, "tree", plain) == (4 * 6 + 3 * 4 * 3) / 10
    assert evaluations_per_frame(pipeline, film, "tree", guided) == (4 * 6 * 2 + 3 * 4 * 3) / 10
    assert evaluations_per_frame(pipeline, film, "local", guided) == 3 * 4 * 3 / 10
    begun = read_setting("ddim:6/3:2/2@0.2")  # one of three steps, as there is no part of one
    assert evaluations_per_frame(pipeline, film, "local", begun) == 3 * 4 * (3 + 1) / 10


def test_a_sweep_is_json_and_plots(tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "model")
    Probe().save(tmp_path / "probe")
    main(
        [
            *("--settings", "ddim:1/1:1/1", "ddim:2/1:2/1", "--frames", "16", "--stories", "1"),
            *("--model", str(tmp_path / "model"), "--probe", str(tmp_path / "probe")),
            *("--features", "probe", "--output", str(tmp_path / "sweep")),
        ]
    )
    results = json.loads((tmp_path / "sweep.json").read_text())["results"]
    assert [result["setting"] for result in results] == ["ddim:1/1:1/1", "ddim:2/1:2/1"]
    assert results[0]["evaluations_per_frame"] < results[1]["evaluations_per_frame"]
    assert results[0]["probe.avg_fd"] != results[1]["probe.avg_fd"]
    plots = sorted(path.name for path in tmp_path.glob("*.svg"))
    assert len(plots) == 4
    assert "2/1" in (tmp_path / "sweep-probe-avg_fd.svg").read_text()


def test_points_lie_where_their_numbers_say() -> None:
    plot = scatter_plot("a", {"ddim": [(2.0, 1.0, "low"), (4.0, 3.0, "high")]}, x_label="work")
    (x1, y1), (x2, y2) = (
        (float(part.split('"')[0]), float(part.split('cy="')[1].split('"')[0]))
        for part in plot.split('cx="')[1:]
    )
    assert x1 < x2
    assert y1 > y2  # up is more
    assert (x2 - 52) == pytest.approx(2 * (x1 - 52), abs=0.2)


def test_a_probe_that_is_not_there_is_said_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        main(["--probe", str(tmp_path / "none"), "--features", "probe"])
    assert "`probe` must be trained before" in capsys.readouterr().err
