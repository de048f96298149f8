"""What each number of an evaluation is called, how it is written and what it means.

Knows names of scores; not how they are drawn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table

from nuwaxl.evaluation.evaluate import Evaluation


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    key: str
    """In `Score.flat`."""
    heading: str
    form: str
    """How a value is written."""
    meaning: str
    better: str = ""
    """An arrow to where better films are; nothing where there is no better."""


_SPACES = {"probe": "the probe's features", "efficientnet": "EfficientNet-Lite0's features"}

_ASKED = (
    Line("accuracy.actor", "actor", "{:.1%}", "frames that show the actor asked for", "↑"),
    Line("accuracy.background", "place", "{:.1%}", "frames that show the place asked for", "↑"),
    Line("accuracy.time_of_day", "time", "{:.1%}", "frames at the time of day asked for", "↑"),
    Line("accuracy.action", "action", "{:.1%}", "frames in which it does what was asked for", "↑"),
    Line("accuracy.direction", "direction", "{:.1%}", "frames in which it heads as asked for", "↑"),
    Line("accuracy.all", "all", "{:.1%}", "frames in which all of these are right", "↑"),
    Line("cut_error", "cut", "{:.2f}", "frames between a cut and where it should be", "↓"),
)
_IN_TIME = (
    Line("seam_ratio", "seam", "{:.2f}", "change at segments' ends over that near them; 1: none"),
    Line("flicker", "flicker", "{:.2f}", "2nd difference of the background in time, levels", "↓"),
    Line("motion_error", "motion", "{:.1f}", "error of the background's scroll, px/s", "↓"),
    Line("identity_kept", "identity", "{:.1%}", "frames with their scene's most seen actor", "↑"),
    Line("drift.all", "drift", "{:+.1%}", "all in the first 15 % less that in the last", "↓"),
    Line("drift.actor", "drift actor", "{:+.1%}", "the same of actor", "↓"),
)
_COST = (
    Line("seconds_per_frame", "s/frame", "{:.3f}", "wall-clock time on this machine"),
    Line("num_runs", "runs", "{:d}", "diffusion runs of one film"),
    Line("critical_path", "path", "{:d}", "runs that must follow one another"),
)


def lines_of(evaluation: Evaluation) -> list[Line]:
    """The lines of the table, in order: those of networks that were not there are left out.

    Args:
        evaluation: to show.
    """
    lines = list(_ASKED)
    for space in evaluation.rows[0].score.distances:
        what = f"to the real films in {_SPACES[space]}"
        lines += [
            Line(f"{space}.avg_fd", f"Avg-FD {space}", "{:.2f}", f"Frechet distance {what}", "↓"),
            Line(f"{space}.kid", f"KID {space}", "{:.3g}", "kernel distance there; 0: none", "↓"),
            Line(
                f"{space}.block_fd",
                f"B-FD-16 {space}",
                "{:.2f}",
                "the same of 16-frame blocks",
                "↓",
            ),
            Line(
                f"{space}.drift_fd",
                f"drift FD {space}",
                "{:+.2f}",
                "last 15 % less first 15 %",
                "↓",
            ),
        ]
    scores = [line.score for line in evaluation.rows]
    if any(score.fid is not None for score in scores):
        lines.append(Line("fid", "FID", "{:.2f}", "Frechet distance in Inception's features", "↓"))
    if any(score.fvd is not None for score in scores):
        network = evaluation.video_network
        meaning = f"Frechet distance of 16-frame blocks in {network}'s features"
        lines.append(Line("fvd", f"FVD {network}", "{:.2f}", meaning, "↓"))
    if any(score.clip_score is not None for score in scores):
        lines.append(Line("clip_score", "CLIP", "{:.2f}", "CLIP score of frames and prompts", "↑"))
    return [*lines, *_IN_TIME, *_COST]


def shown(line: Line, flat: Mapping[str, float | int | None]) -> str:
    """A number as the table shows it; a dash where nothing was measured.

    Args:
        line: of the table.
        flat: of `Score.flat`.
    """
    value = flat.get(line.key)
    return "-" if value is None else line.form.format(value)


def terminal_tables(evaluation: Evaluation) -> list[Table]:
    """A table for each length: a line for each metric and a column for each row of films.

    Args:
        evaluation: to show.
    """
    tables = []
    for num_frames in dict.fromkeys(line.num_frames for line in evaluation.rows):
        films = [line for line in evaluation.rows if line.num_frames == num_frames]
        grid = Table(title=f"{num_frames} frames", title_justify="left", box=SIMPLE_HEAD)
        grid.add_column("", no_wrap=True)
        for film in films:
            grid.add_column(film.row, justify="right", no_wrap=True)
        flat = [film.score.flat() for film in films]
        for line in lines_of(evaluation):
            name = f"{line.heading} {line.better}".rstrip()
            grid.add_row(name, *(shown(line, values) for values in flat))
        tables.append(grid)
    return tables


def probe_line(accuracy: Mapping[str, Mapping[str, float]]) -> str:
    """The probe's own accuracy in one line per test set.

    Args:
        accuracy: of `train_probe`.
    """
    return "\n".join(
        f"probe on {name}: " + ", ".join(f"{key} {value:.1%}" for key, value in values.items())
        for name, values in accuracy.items()
    )


def distinct(prompts: Sequence[str]) -> str:
    """Prompts in order, each once, in one line.

    Args:
        prompts: of some frames.
    """
    return " · ".join(dict.fromkeys(prompts))
