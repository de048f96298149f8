"""The report of an evaluation: JSON, a table for the terminal, a page with strips and plots.

Knows scores and how to show them.
"""

import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from nuwaxl.evaluation.evaluate import Evaluation, RowResult
from nuwaxl.evaluation.plots import line_plot, picture_tag

COLUMNS: dict[str, tuple[str, str, str]] = {
    "accuracy.actor": ("actor", "{:.1%}", "frames that show the actor asked for"),
    "accuracy.background": ("place", "{:.1%}", "frames that show the background asked for"),
    "accuracy.time_of_day": ("time", "{:.1%}", "frames at the time of day asked for"),
    "accuracy.action": ("action", "{:.1%}", "frames in which it does what was asked for"),
    "accuracy.direction": ("direction", "{:.1%}", "frames in which it heads where it should"),
    "accuracy.all": ("all", "{:.1%}", "frames in which all of these are right"),
    "avg_fd": (
        "Avg-FD",
        "{:.2f}",
        "Frechet distance of frames to other real films, lower is better",
    ),
    "kid": ("KID", "{:.3f}", "kernel distance of the same, 0 is no difference"),
    "block_fd": ("B-FD-16", "{:.2f}", "Frechet distance of blocks of 16 frames"),
    "seam_ratio": (
        "seam",
        "{:.2f}",
        "change across segment boundaries over that near them, 1 is none",
    ),
    "flicker": ("flicker", "{:.2f}", "second difference of the background in time, grey levels"),
    "motion_error": ("motion", "{:.1f}", "error of the background's scroll, px/s"),
    "drift_accuracy": ("drift", "{:+.1%}", "'all' in the first 15 % less that in the last 15 %"),
    "drift_fd": ("drift FD", "{:+.2f}", "Frechet distance, last 15 % less first 15 %"),
    "identity_kept": ("identity", "{:.1%}", "frames with the actor that most of their scene shows"),
    "cut_error": ("cut", "{:.2f}", "frames between a cut and where it should be"),
    "seconds_per_frame": ("s/frame", "{:.3f}", "wall-clock time on this machine"),
    "num_runs": ("runs", "{:d}", "diffusion runs of one film"),
    "critical_path": ("path", "{:d}", "runs that must follow one another"),
}
"""Name in `Score.flat` -> heading, format, what it means."""

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1200px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;font-size:13px}td,th{padding:3px 8px;text-align:right}
td:first-child,th:first-child{text-align:left}tr{border-bottom:1px solid #ddd}
.scroll{overflow-x:auto}.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(340px,1fr))}
svg text{font:11px system-ui,sans-serif;fill:#444}svg .title{font-size:13px;fill:#222}
svg .grid{stroke:#e4e4e4}img{max-width:100%;display:block;image-rendering:auto}
figure{margin:.6em 0}figcaption{font-size:13px;color:#555}
"""


def shown(name: str, value: float | int | None) -> str:
    """A number as the table shows it; a dash where nothing was measured.

    Args:
        name: a key of `COLUMNS`.
        value: of `Score.flat`.
    """
    return "-" if value is None else COLUMNS[name][1].format(value)


def table(evaluation: Evaluation) -> Table:
    """The table for the terminal: a column for each row of films, since metrics are many.

    Args:
        evaluation: to show.
    """
    grid = Table(title="Films measured on known state", title_justify="left")
    grid.add_column("")
    for line in evaluation.rows:
        grid.add_column(f"{line.row}\n{line.num_frames}", justify="right")
    flat = [line.score.flat() for line in evaluation.rows]
    for name, (heading, _, _) in COLUMNS.items():
        grid.add_row(heading, *(shown(name, values.get(name)) for values in flat))
    return grid


def probe_line(accuracy: Mapping[str, Mapping[str, float]]) -> str:
    """The probe's own accuracy in one line per test set.

    Args:
        accuracy: of `train_probe`.
    """
    return "\n".join(
        f"probe on {name}: " + ", ".join(f"{key} {value:.1%}" for key, value in values.items())
        for name, values in accuracy.items()
    )


def page(evaluation: Evaluation) -> str:
    """The whole report as one HTML file that needs nothing beside it.

    Args:
        evaluation: to show.
    """
    lengths = list(dict.fromkeys(line.num_frames for line in evaluation.rows))
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>nuwaxl evaluation</title><style>{_STYLE}</style>",
        "<h1>Films measured on known state</h1>",
        f"<p>{evaluation.config.stories} stories of each length"
        f"{', held-out combinations' if evaluation.config.held_out else ''}, seed"
        f" {evaluation.config.seed}.</p>",
    ]
    accuracy = evaluation.probe_facts.get("accuracy")
    if isinstance(accuracy, dict):
        lines = html.escape(probe_line(accuracy)).splitlines()
        parts.append(f"<p>{'<br>'.join(lines)}</p>")
    for num_frames in lengths:
        lines = [line for line in evaluation.rows if line.num_frames == num_frames]
        parts.append(f"<h2>{num_frames} frames</h2>")
        parts += [_html_table(lines), _plots(lines)]
        parts += [_strip(line, evaluation.prompts.get(num_frames, [])) for line in lines]
    parts.append("<h2>What the columns mean</h2><ul>")
    parts += [
        f"<li><b>{html.escape(heading)}</b>: {html.escape(meaning)}</li>"
        for heading, _, meaning in COLUMNS.values()
    ]
    return "\n".join([*parts, "</ul></html>"]) + "\n"


def write_report(evaluation: Evaluation, folder: str | Path) -> tuple[Path, Path]:
    """Write `report.json` and `report.html`, each whole or not at all.

    Args:
        evaluation: to write.
        folder: made when it is not there.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "report.json", folder / "report.html"
    for path, text in zip(paths, (evaluation.to_json(), page(evaluation)), strict=True):
        partial = path.with_suffix(".partial")
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    return paths


def _html_table(lines: Sequence[RowResult]) -> str:
    cells = [
        f'<th title="{html.escape(meaning)}">{html.escape(heading)}</th>'
        for heading, _, meaning in COLUMNS.values()
    ]
    rows = [f"<tr><th></th>{''.join(cells)}</tr>"]
    for line in lines:
        flat = line.score.flat()
        values = "".join(f"<td>{shown(name, flat.get(name))}</td>" for name in COLUMNS)
        rows.append(f"<tr><td>{html.escape(line.row)}</td>{values}</tr>")
    return f'<div class="scroll"><table>{"".join(rows)}</table></div>'


def _plots(lines: Sequence[RowResult]) -> str:
    accuracy = {line.row: line.score.accuracy_over_time for line in lines}
    blocks = {line.row: line.score.block_fd_by_position for line in lines}
    return "\n".join(
        [
            '<div class="plots">',
            line_plot("Frames in which all is right", accuracy, x_label="time", limits=(0, 1)),
            line_plot("B-FD-16 by quarter of the film", blocks, x_label="time"),
            "</div>",
        ]
    )


def _strip(line: RowResult, prompts: Sequence[str]) -> str:
    strip = np.concatenate(list(line.strip), axis=1)
    said = " · ".join(dict.fromkeys(prompts))
    return (
        f"<figure><figcaption><b>{html.escape(line.row)}</b>: {html.escape(said)}</figcaption>"
        f"{picture_tag(strip, f'Frames of the {line.row} film')}</figure>"
    )
