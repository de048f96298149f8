"""What a figure was measured on, how times are taken side by side, and where results go."""

import datetime
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from nuwaxl.evaluation.plots import line_plot

_STYLE = (
    "<style>text{font:11px sans-serif;fill:#333}.title{font-size:13px;font-weight:600}"
    ".grid{stroke:#ddd;stroke-width:1}svg{background:#fff}</style>"
)


def describe(command: str | None = None) -> dict[str, Any]:
    """Date, processor, threads, accelerator, versions, and the command that measures.

    Args:
        command: that leads to the figures.
    """
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":")[1].strip() if names else cpu
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "date": datetime.datetime.now().isoformat(timespec="minutes"),
        "command": command,
        "processor": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        # Above the number of threads in use, something else was running.
        "load_average": None if load is None else round(load, 2),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        **{name: version(name) for name in ("nuwaxl", "torch", "diffusers", "transformers")},
    }


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each call, all of them once in every round: what disturbs one, does all.

    Args:
        calls: by name; each is called once more, before the first round.
        rounds: odd, so that the median is one of the times.
    """
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def product(dtype: torch.dtype, size: int = 2048) -> tuple[Callable[[], torch.Tensor], float]:
    """A square matrix product, and its GFLOP: the best rate that a machine can be expected to give.

    Args:
        dtype: of both factors.
        size: of their sides.
    """
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    return lambda: torch.matmul(a, b), 2 * size**3 / 1e9


def quiet() -> None:
    """No progress bars while networks are loaded."""
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


def peak_gigabytes() -> float:
    """Most memory that this process has had at once.

    Linux's `getrusage` also counts what the process had that started it, so /proc is read there.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) * 1024 / 1e9
    # Bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9


def save(result: Mapping[str, Any], path: str | None) -> None:
    """Write a result as JSON.

    Args:
        result: of one benchmark.
        path: of the file; None: nowhere.
    """
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(result, indent=1) + "\n")


def save_plot(
    path: Path, title: str, lines: Mapping[str, list[float | None]], x_label: str
) -> None:
    """Write a line plot as an SVG file.

    Args:
        path: of the file.
        title: above the plot.
        lines: name -> one value per place on the horizontal axis.
        x_label: names the places.
    """
    save_svg(path, line_plot(title, lines, x_label=x_label))


def save_svg(path: Path, drawn: str) -> None:
    """Write a plot as a file of its own.

    Args:
        path: of the file.
        drawn: by `nuwaxl.evaluation.plots`.
    """
    head, rest = drawn.split(">", 1)
    head = head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    path.write_text(f"{head}>{_STYLE}{rest}\n")
