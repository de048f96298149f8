"""The report of an evaluation: JSON, and one page with table, plots and strips of frames.

Knows scores and how to show them.
"""

import html
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nuwaxl.evaluation.evaluate import Evaluation, RowResult
from nuwaxl.evaluation.plots import line_plot, picture_tag
from nuwaxl.evaluation.table import Line, distinct, lines_of, probe_line, shown

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1200px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
td,th{padding:2px 10px;text-align:right;white-space:nowrap}tr{border-bottom:1px solid #e4e4e4}
td:first-child{text-align:left;font-weight:600}
td:last-child,th:last-child{text-align:left;color:#666;font-weight:400}
thead tr{border-bottom:2px solid #999}.scroll{overflow-x:auto}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(340px,1fr));gap:1em;margin:1em 0}
svg text{font:11px system-ui,sans-serif;fill:#444}svg .title{font-size:13px;fill:#222}
svg .grid{stroke:#e4e4e4}img{max-width:100%;display:block}
figure{margin:.8em 0}figcaption{font-size:13px;color:#555}
"""


def page(evaluation: Evaluation) -> str:
    """The whole report as one HTML file that needs nothing beside it.

    Args:
        evaluation: to show.
    """
    config = evaluation.config
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>nuwaxl evaluation</title><style>{_STYLE}</style>",
        "<h1>Films measured on known state</h1>",
        f"<p>{config.stories} {'stories' if config.stories > 1 else 'story'} of each length"
        f"{', held-out combinations' if config.held_out else ''}, seed {config.seed},"
        f" {config.sampling.scheduler}, {config.sampling.for_level(0).num_inference_steps} steps"
        f" for keyframes and {config.sampling.for_level(1).num_inference_steps} between them."
        " ↑ higher is better, ↓ lower is better.</p>",
    ]
    accuracy = evaluation.probe_facts.get("accuracy")
    if isinstance(accuracy, dict):
        lines = html.escape(probe_line(accuracy)).splitlines()
        parts.append(f"<p>{'<br>'.join(lines)}</p>")
    for num_frames in dict.fromkeys(line.num_frames for line in evaluation.rows):
        rows = [line for line in evaluation.rows if line.num_frames == num_frames]
        prompts = evaluation.prompts.get(num_frames, [])
        parts.append(f"<h2>{num_frames} frames</h2>")
        parts += [_table(rows, lines_of(evaluation)), _plots(rows, evaluation.video_network)]
        parts.append(f"<p>The first film: {html.escape(distinct(prompts))}</p>")
        parts += [_strip(line) for line in rows]
    return "\n".join([*parts, "</html>"]) + "\n"


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


def _table(rows: Sequence[RowResult], lines: Sequence[Line]) -> str:
    """A line for each metric and a column for each row of films."""
    heads = "".join(f"<th>{html.escape(row.row)}</th>" for row in rows)
    flat = [row.score.flat() for row in rows]
    body = []
    for line in lines:
        values = "".join(f"<td>{shown(line, numbers)}</td>" for numbers in flat)
        body.append(
            f"<tr><td>{html.escape(line.heading)} {line.better}</td>{values}"
            f"<td>{html.escape(line.meaning)}</td></tr>"
        )
    return (
        f'<div class="scroll"><table><thead><tr><th></th>{heads}<th></th></tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _plots(rows: Sequence[RowResult], video_network: str | None) -> str:
    """Accuracy and distances over the films' time; none of what was not measured."""
    plots = [
        line_plot(
            title,
            {row.row: row.score.accuracy_over_time[name] for row in rows},
            x_label="time, in 16 parts",
            limits=(0, 1),
        )
        for title, name in (
            ("Frames in which all is right", "all"),
            ("Frames that show the actor asked for", "actor"),
        )
    ]
    by_position = {
        f"B-FD-16 by quarter of the film, {space}": {
            row.row: row.score.distances[space].block_fd_by_position for row in rows
        }
        for space in rows[0].score.distances
    }
    by_position[f"FVD by quarter of the film, {video_network}"] = {
        row.row: row.score.fvd_by_position for row in rows
    }
    plots += [
        line_plot(title, lines, x_label="time, in quarters")
        for title, lines in by_position.items()
        if any(value is not None for line in lines.values() for value in line)
    ]
    return "\n".join(['<div class="plots">', *plots, "</div>"])


def _strip(row: RowResult) -> str:
    gap = ((0, 0), (0, 0), (0, 3), (0, 0))
    strip = np.concatenate(list(np.pad(row.strip, gap, constant_values=255)), axis=1)
    name = html.escape(row.row)
    return (
        f"<figure><figcaption><b>{name}</b></figcaption>"
        f"{picture_tag(strip, f'Frames of the film {row.row}')}</figure>"
    )
