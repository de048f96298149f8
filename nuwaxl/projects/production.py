"""A project's film at work: what is still to be run, running it, looking at it early.

Knows projects, pipelines and pictures; not how anything is shown to a user.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from nuwaxl.films.film import Film, to_picture
from nuwaxl.films.inputs import FilmEdit
from nuwaxl.pipelines.backend import BackendPipeline
from nuwaxl.pipelines.long_video import ExecutorFactory, LongVideoPipeline
from nuwaxl.projects.project import FilmState, Project
from nuwaxl.tree.coarse_to_fine import OnSegment, SegmentJob
from nuwaxl.tree.frontier import segment_requests


@dataclass(frozen=True)
class Forecast:
    """What would be run now."""

    keys: frozenset[str]
    """Of these runs."""
    runs_per_level: Mapping[int, int]
    """Level -> runs, coarse levels first."""
    num_for_last_edit: int
    """Those of them that the last edit asks for; the others were not finished before it."""
    num_segments: int
    """Runs of the whole film from nothing."""

    @property
    def num_runs(self) -> int:
        """All runs."""
        return sum(self.runs_per_level.values())


def open_film(
    project: Project,
    state: FilmState,
    pipeline: LongVideoPipeline | BackendPipeline,
    *,
    batch_size: int | None = None,
    executor: ExecutorFactory | None = None,
) -> Film:
    """The film of a state of the project, with the project's finished segments.

    Args:
        project: whose segments and pictures are used.
        state: the one in force, or one that is only tried.
        pipeline: the state's model.
        batch_size: as in the pipeline.
        executor: as in the pipeline.

    Raises:
        ValueError: the pipeline cannot make this film.
    """
    return pipeline.film(
        state.storyline,
        num_frames=state.num_frames,
        depth=state.depth,
        fps=state.fps,
        sampling=state.sampling,
        seed=state.seed,
        batch_size=batch_size,
        executor=executor,
        store=project.store(),
        edits=[
            FilmEdit(
                start=edit.start,
                stop=edit.stop,
                storyline=edit.storyline,
                seed=edit.seed,
                num_frames=edit.num_frames,
                images={frame: project.picture(name) for frame, name in edit.pictures.items()},
            )
            for edit in state.edits
        ],
    )


def forecast(
    film: Film, start: int = 0, stop: int | None = None, *, max_level: int | None = None
) -> Forecast:
    """What would be run now to make a range of the film: exactly that, from the store's files.

    Args:
        film: of a project.
        start: first frame.
        stop: frame to stop before; None: the end of the film.
        max_level: frames of the levels down to this one only.
    """
    plan = film.orchestrator.plan
    jobs = list(film.orchestrator.missing(start, stop, max_level=max_level))
    return Forecast(
        keys=frozenset(job.key for job in jobs),
        runs_per_level=dict(sorted(Counter(job.segment.level for job in jobs).items())),
        num_for_last_edit=sum(job.edit == plan.num_edits for job in jobs),
        num_segments=plan.timeline.num_segments,
    )


def segment_jobs(film: Film) -> Iterator[SegmentJob]:
    """The jobs whose frames the film shows, level by level."""
    for request in segment_requests(film.orchestrator.plan, "level", None):
        yield request.item


def held_frames(
    film: Film, max_level: int, *, on_segment: OnSegment | None = None
) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """The coarse film at full length: each frame of its levels is shown until the next one.

    Args:
        film: any.
        max_level: the last level that is made; 0: the keyframes.
        on_segment: called with job and latents as soon as a segment has run.
    """
    held: tuple[int, np.ndarray] | None = None
    for frame, pixels in film.pixels(max_level=max_level, on_segment=on_segment):
        if held is not None:
            yield from (held[1] for _ in range(held[0], frame))
        held = frame, to_picture(pixels)
    assert held is not None, "a film has a first frame, and it is a keyframe"
    yield from (held[1] for _ in range(held[0], film.timeline.num_frames))


def keyframes(
    film: Film, *, on_segment: OnSegment | None = None
) -> Iterator[tuple[int, UInt8[np.ndarray, "height width 3"]]]:
    """The frames of level 0 and their numbers: the whole film after one run.

    Args:
        film: any.
        on_segment: called with job and latents as soon as a segment has run.
    """
    for frame, pixels in film.pixels(max_level=0, on_segment=on_segment):
        yield frame, to_picture(pixels)
