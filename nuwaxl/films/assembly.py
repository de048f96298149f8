"""A film from a segment model and what a caller asks for: plan, pictures, edits, store.

Knows how these parts fit together; not which model makes the frames.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from nuwaxl.denoising.sampling import SamplingConfig
from nuwaxl.films.film import Film
from nuwaxl.films.inputs import FilmEdit, read_pictures
from nuwaxl.pictures.codecs import FrameCodec
from nuwaxl.pictures.reading import Picture, picture_hash
from nuwaxl.stores.store import SegmentStore
from nuwaxl.tensors.fingerprint import fingerprint
from nuwaxl.tree.coarse_to_fine import Edit, Executor, Orchestrator, SegmentModel
from nuwaxl.tree.storyline import Storyline
from nuwaxl.tree.timeline import Timeline

ExecutorFactory = Callable[[SegmentModel], Executor]
PlanTimeline = Callable[[int, int | None, tuple[int, ...]], Timeline]
"""(frames, depth, pinned frames) -> the plan, as the model's runs can have it."""


def assemble_film(
    model: SegmentModel,
    codec: FrameCodec,
    storyline: Storyline,
    *,
    plan: PlanTimeline,
    num_frames: int,
    depth: int | None,
    fps: float,
    height: int,
    width: int,
    sampling: SamplingConfig,
    seed: int,
    images: Mapping[int | str, Picture],
    edits: Sequence[FilmEdit],
    executor: ExecutorFactory,
    store: SegmentStore,
    windows_per_batch: int,
) -> Film:
    """Plan a film and make nothing yet.

    Args:
        model: makes the segments.
        codec: what its latents are.
        storyline: the prompt of every moment.
        plan: makes the timeline, also that of a film made longer.
        num_frames: of the film as first made.
        depth: levels; None: as `plan` chooses.
        fps: frames per second.
        height: of a frame, in pixels.
        width: of a frame, in pixels.
        sampling: of the model.
        seed: of the film's noise.
        images: frame or time -> picture to show there.
        edits: what was changed since, in that order.
        executor: makes what runs the model, which is closed with the film.
        store: keeps finished segments.
        windows_per_batch: windows decoded at once.

    Raises:
        ValueError: pictures, edits or the plan cannot be.
    """

    def read(
        images: Mapping[int | str, Picture], num_frames: int
    ) -> tuple[dict[int, str], dict[str, Tensor]]:
        """By what pictures are known, by frame, and their latents."""
        pictures = read_pictures(images, num_frames=num_frames, fps=fps, height=height, width=width)
        identities = {frame: picture_identity(codec, each) for frame, each in pictures.items()}
        return identities, {
            identities[frame]: codec.encode(picture) for frame, picture in pictures.items()
        }

    identities, pictures = read(images, num_frames)
    planned: list[Edit] = []
    edit_pictures: dict[str, Tensor] = {}
    for edit in edits:
        pins, latents = read(edit.images, edit.stop)
        longer = plan(edit.num_frames, None, ()) if edit.num_frames else None
        planned.append(Edit(edit.start, edit.stop, edit.storyline, edit.seed, longer, pins))
        edit_pictures |= latents
    timeline = plan(num_frames, depth, tuple(sorted(identities)))
    orchestrator = Orchestrator(
        timeline,
        storyline,
        executor(model),
        store,
        model_fingerprint=model.fingerprint,
        sampling_fingerprint=sampling.fingerprint(),
        latent_shape=model.latent_shape,
        fps=fps,
        seed=seed,
        pinned={frame: pictures[identity] for frame, identity in identities.items()},
        pinned_identities=identities,
        edits=planned,
        edit_pictures=edit_pictures,
    )
    return Film(orchestrator, codec, windows_per_batch=windows_per_batch)


def picture_identity(codec: FrameCodec, picture: UInt8[np.ndarray, "height width 3"]) -> str:
    """By what a picture as the codec sees it is known."""
    return fingerprint([codec.fingerprint, picture_hash(picture)])
