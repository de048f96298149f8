"""What `nuwaxl plan` says of a model: weights, memory and operations, from its sizes alone."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from nuwaxl.config import GenerateConfig, load_config
from nuwaxl.denoising.sampling import SamplingConfig
from nuwaxl.parts.sizes import ModelParts, read_parts

if TYPE_CHECKING:
    from nuwaxl.parts.costs import ModelCosts


@dataclass(frozen=True)
class PlannedModel:
    """What the user said of the model."""

    config_file: Path | None
    """Settings, also where `--model` named them."""
    folder: str | None
    """Of a checkpoint, or the name of a pretrained model."""
    parts: ModelParts | None
    """What the settings say of sizes."""

    @property
    def overrides(self) -> dict[str, Any]:
        """Of the settings: sizes stand for a model's folder, which need not be there."""
        if self.parts is not None:
            return {"model": None}
        return {} if self.folder is None else {"model": self.folder}

    def segment_length(self, said: int | None) -> int | None:
        """Most frames in a run, where the settings say sizes."""
        return self.parts.segment_length if said is None and self.parts is not None else said

    def read_parts(self) -> ModelParts | None:
        """Sizes of the settings, or of the folder; None: no model was named."""
        if self.parts is not None or self.folder is None:
            return self.parts
        return read_parts(self.folder)


def planned_model(
    model: str | None, config_file: Path | None, assignments: Sequence[str] | None
) -> PlannedModel:
    """Tell a settings file from a folder.

    Args:
        model: what the user named, if anything.
        config_file: the user's settings.
        assignments: `key=value`.

    Raises:
        ValueError: two settings files, or one without sizes.
    """
    is_file = model is not None and Path(model).suffix in (".yaml", ".yml")
    if is_file and config_file is not None:
        raise ValueError(
            f"`--model` {model} is a settings file, and so is `--config` {config_file}: name one."
        )
    config_file = Path(model) if is_file and model is not None else config_file
    parts = None
    if config_file is not None and (is_file or model is None):
        parts = load_config(GenerateConfig, config_file, assignments or ()).parts
        if is_file and parts is None:
            raise ValueError(
                f"`--model` must be a model's folder or a settings file with `parts`, such as "
                f"configs/nuwa_xl_128.yaml, and {model} has none."
            )
    return PlannedModel(config_file, None if is_file else model, parts)


@dataclass(frozen=True)
class Work:
    """Operations, additions and products counted."""

    global_run: int
    """A full run of level 0, all steps, with guidance."""
    local_run: int
    """The same below."""
    decoding: int
    """The pictures of a full run."""
    film: int
    """All runs and the pictures."""


def film_work(
    costs: "ModelCosts", sampling: SamplingConfig, frames_per_level: Sequence[float], frames: int
) -> Work:
    """Operations of a film. A shorter run is taken to need less in proportion.

    Args:
        costs: of the model.
        sampling: steps and guidance.
        frames_per_level: frames in all runs of each level, given ones included.
        frames: of the film.
    """
    runs = []
    for level, forward in enumerate((costs.flops_global, costs.flops_local)):
        settings = sampling.for_level(level)
        runs.append(forward * settings.passes)
    evaluated = [held * runs[min(level, 1)] for level, held in enumerate(frames_per_level)]
    film = (sum(evaluated) + frames * costs.flops_decode) / costs.segment_length
    return Work(runs[0], runs[1], costs.flops_decode, round(film))


def as_json(costs: "ModelCosts", work: Work) -> dict[str, Any]:
    """For `nuwaxl plan --json`."""
    return asdict(costs) | {"work": asdict(work)}


def show_model(costs: "ModelCosts", work: Work) -> None:
    """Print parts and operations."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("part", "class", "parameters", "float32", "float16, bfloat16"):
        table.add_column(name, justify="left" if name in ("part", "class") else "right")
    for part in costs.parts:
        table.add_row(part.name, part.kind, *_row(part.parameters))
    table.add_row("together", "", *_row(sum(part.parameters for part in costs.parts)))
    Console(soft_wrap=True, highlight=False).print(table)
    typer.echo(
        f"a run of {costs.segment_length} frames of {costs.width}x{costs.height}: global "
        f"{spell_flop(work.global_run)}, local {spell_flop(work.local_run)}, its pictures "
        f"{spell_flop(work.decoding)}; the film {spell_flop(work.film)}"
    )


def _row(parameters: int) -> tuple[str, str, str]:
    return f"{parameters / 1e6:,.1f} M", _spell_bytes(4 * parameters), _spell_bytes(2 * parameters)


def _spell_bytes(count: int) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def spell_flop(count: float) -> str:
    """'830 GFLOP', '83 TFLOP': three digits."""
    units = ("GFLOP", "TFLOP", "PFLOP", "EFLOP")
    number = count / 1e9
    while number >= 1000 and len(units) > 1:
        number, units = number / 1000, units[1:]
    return f"{number:.3g} {units[0]}"
