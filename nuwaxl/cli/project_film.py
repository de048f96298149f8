"""`nuwaxl generate --project`: begin a film in a folder of its own, or go on with it."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from nuwaxl.cli.errors import CommandError, user_errors
from nuwaxl.cli.producing import Running, make, opened
from nuwaxl.cli.request import FilmRequest
from nuwaxl.config import GenerateConfig
from nuwaxl.projects.project import Project
from nuwaxl.projects.state import FilmState

MACHINE = ("device", "dtype", "batch_size", "offload", "output", "contact_sheet")
"""Options that change where and how fast a film is made, not what it is."""


def tells_a_film(values: Mapping[str, Any], known: Mapping[str, str]) -> bool:
    """Whether the user said anything about the film itself, or only where to go on with one.

    Args:
        values: option -> value; None where it was not given.
        known: options that are settings.
    """
    telling = {"prompt", "story", "config", "assignments", *known} - set(MACHINE)
    return any(values.get(option) for option in telling)


def make_project(
    project: Project,
    request: FilmRequest | None,
    running: Running,
    *,
    keep: frozenset[int] = frozenset(),
) -> tuple[FilmState, list[tuple[int, Any]]]:
    """Begin the film, or go on with it, in its folder.

    Args:
        project: of the folder.
        request: the film that the user described; None: the one that is there.
        running: where and how.
        keep: numbers of frames to return.

    Returns:
        The film's state, and these frames.

    Raises:
        CommandError: another film is there, another process works in the folder, or it broke off.
    """
    if project.is_new:
        assert request is not None, "a film that is not there yet was described"
        wanted = state_of(request)
        with opened(project.folder, project):
            kept = make(
                project,
                wanted,
                running,
                commit=lambda: project.commit(wanted, "generate"),
                keep=keep,
            )
        return wanted, kept
    with opened(project.folder, project) as held:
        state = held.current.state
        if request is not None:
            _check_same(state_of(request), state, project.folder)
        return state, make(held, state, running, keep=keep)


def state_of(request: FilmRequest) -> FilmState:
    """All that decides the film that a user described."""
    config = request.config
    assert request.storyline is not None, "`resolve_request` asks for a prompt"
    backends, pretrained = request.backends, {}
    if backends is not None:
        from nuwaxl.backends.checkpoints import pinned

        with user_errors():
            pretrained = {
                "global_model": pinned(backends.global_role),
                "local_model": pinned(backends.local_role),
                "size": f"{backends.width}x{backends.height}",
                "quantize": backends.quantize,
            }
    return FilmState(
        num_frames=request.num_frames,
        segment_length=request.segment_length,
        fps=config.fps,
        seed=config.seed,
        sampling=config.sampling,
        storyline=request.storyline,
        depth=config.depth,
        model=None if config.model is None or backends else str(Path(config.model).resolve()),
        lora=tuple(str(Path(folder).resolve()) for folder in config.lora),
        **pretrained,
    )


def is_default_output(config: GenerateConfig) -> bool:
    """Whether the user left it open where the film goes."""
    return config.output == GenerateConfig().output


def _check_same(wanted: FilmState, found: FilmState, folder: Path) -> None:
    begun = replace(found, edits=())
    for field in fields(FilmState):
        if getattr(wanted, field.name) != getattr(begun, field.name):
            raise CommandError(
                f"{folder} holds a film of another `{field.name}`: leave the description out to go "
                "on with it, change it by `nuwaxl edit`, `reroll`, `pin` or `extend`, or name "
                "another folder."
            )
