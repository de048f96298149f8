"""Text to a film of any length: the pipeline that a user of diffusers expects.

Knows how the parts fit together; each part's own work is elsewhere.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import PIL.Image
import torch
from diffusers.utils import BaseOutput
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from nuwaxl.denoising.sampling import SamplingConfig
from nuwaxl.executors.local import LocalExecutor
from nuwaxl.films.assembly import ExecutorFactory, assemble_film
from nuwaxl.films.film import Film, to_picture
from nuwaxl.films.inputs import FilmEdit, check_fps, choose_seed, count_frames
from nuwaxl.parts.components import LongVideoComponents, StepEndCallback
from nuwaxl.pictures.reading import Picture
from nuwaxl.stores.store import MemoryStore, SegmentStore
from nuwaxl.tree.coarse_to_fine import Executor, OnSegment, SegmentModel
from nuwaxl.tree.storyline import Story, Storyline
from nuwaxl.tree.timeline import Timeline

OutputType = Literal["np", "pil", "pt", "latent"]

_DEFAULTS = SamplingConfig()
_MAX_BATCH_SIZE = 128
"""How far the batch size is searched on accelerators."""


@dataclass
class LongVideoPipelineOutput(BaseOutput):
    """Result of `LongVideoPipeline`."""

    frames: Any
    """One film: (1, frames, height, width, 3) in [0, 1] as an array, (1, frames, 3, height, width)
    in [0, 1] or latents (1, frames, channels, height, width) as a tensor, or a list of one list of
    pictures."""


class LongVideoPipeline(LongVideoComponents):
    """Text to a film of any length, from coarse to fine.

    Three ways to the same film: a call returns it whole, `stream` yields its pictures as they are
    finished, `film` lets any part of it be made.
    """

    @torch.no_grad()
    def __call__(
        self,
        prompt: Story | Storyline,
        num_frames: int | None = None,
        length: str | None = None,
        *,
        depth: int | None = None,
        fps: float | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = _DEFAULTS.num_inference_steps,
        guidance_scale: float = _DEFAULTS.guidance_scale,
        guidance_rescale: float = _DEFAULTS.guidance_rescale,
        negative_prompt: str = _DEFAULTS.negative_prompt,
        local_num_inference_steps: int | None = None,
        local_guidance_scale: float | None = None,
        guidance_stop: float = _DEFAULTS.guidance_stop,
        local_guidance_stop: float | None = None,
        scheduler: str | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        images: Mapping[int | str, Picture] | None = None,
        output_type: OutputType = "np",
        callback_on_step_end: StepEndCallback | None = None,
        on_segment: OnSegment | None = None,
        batch_size: int | None = None,
        executor: ExecutorFactory | None = None,
        store: SegmentStore | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Make a film and hold it in memory; `stream` makes one of any length in bounded memory.

        Args:
            prompt: one text, a list (equal shares), time -> text, scenes, or a `Storyline`.
            num_frames: of the film; or give `length`, `depth` alone, or scenes with durations.
            length: frames ('240') or a time ('30s', '2m30s').
            depth: levels of the keyframe tree; None: the fewest that reach every frame.
            fps: frames per second; None: the checkpoint's.
            height: in pixels; None: as trained.
            width: in pixels; None: as trained.
            num_inference_steps: denoising steps per segment.
            guidance_scale: strength of the prompt; 1 turns guidance off and halves the work.
            guidance_rescale: 0 to 1, takes back the contrast that guidance adds.
            negative_prompt: what to lead away from.
            local_num_inference_steps: steps below the keyframes; None: half as many.
            local_guidance_scale: guidance below the keyframes; None: the same.
            guidance_stop: share of the steps, from the noisiest on, that are guided.
            local_guidance_stop: that share below the keyframes; None: 0.4.
            scheduler: 'ddim', 'ddpm', 'dpmpp_2m', 'unipc', 'euler' or 'lcm'; None: the pipeline's.
            seed: one seed, one film; None: 0.
            generator: draws the seed instead.
            images: frame number or time ('5s') -> picture to show there, as the VAE rebuilds it.
            output_type: 'np', 'pil', 'pt' or 'latent'.
            callback_on_step_end: as in diffusers, for every step of every batch of segments.
            on_segment: called with job and latents when a segment has run.
            batch_size: segments denoised, and windows decoded, together; None: 8 on a CPU, else
                from 16 on what measuring finds fastest; fewer when memory runs out.
            executor: makes the executor from the segment model; None: in this thread.
            store: keeps finished segments; None: memory, for this call only.
            return_dict: False returns a tuple.

        Returns:
            `LongVideoPipelineOutput`, or the tuple of its one entry.

        Raises:
            ValueError: an argument cannot be, in one line.
        """
        if output_type not in ("np", "pil", "pt", "latent"):
            raise ValueError(
                f"`output_type` must be 'np', 'pil', 'pt' or 'latent', got {output_type!r}."
            )
        film = self.film(
            prompt,
            num_frames,
            length,
            depth=depth,
            fps=fps,
            height=height,
            width=width,
            sampling=SamplingConfig(
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                guidance_rescale=guidance_rescale,
                negative_prompt=negative_prompt,
                scheduler=scheduler or self.scheduler_name(),
                local_num_inference_steps=local_num_inference_steps,
                local_guidance_scale=local_guidance_scale,
                guidance_stop=guidance_stop,
                local_guidance_stop=local_guidance_stop,
            ),
            seed=seed,
            generator=generator,
            images=images,
            callback_on_step_end=callback_on_step_end,
            batch_size=batch_size,
            executor=executor,
            store=store,
        )
        with film, self._progress(film.timeline.num_frames) as progress:
            frames = self._collect(film, output_type, on_segment, progress)
        self.maybe_free_model_hooks()
        return LongVideoPipelineOutput(frames=frames) if return_dict else (frames,)

    def stream(
        self,
        prompt: Story | Storyline,
        num_frames: int | None = None,
        length: str | None = None,
        *,
        start: int = 0,
        stop: int | None = None,
        depth: int | None = None,
        fps: float | None = None,
        height: int | None = None,
        width: int | None = None,
        sampling: SamplingConfig | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        images: Mapping[int | str, Picture] | None = None,
        callback_on_step_end: StepEndCallback | None = None,
        on_segment: OnSegment | None = None,
        batch_size: int | None = None,
        executor: ExecutorFactory | None = None,
        store: SegmentStore | None = None,
    ) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        """Yield the film's pictures in display order as they are finished, in bounded memory.

        Arguments are checked before this returns; work begins with the first picture.

        Args:
            prompt: as in `__call__`.
            num_frames: of the whole film.
            length: of the whole film.
            start: first frame to yield; only what the range needs is made.
            stop: frame to stop before; None: the end of the film.
            depth: as in `__call__`.
            fps: as in `__call__`.
            height: as in `__call__`.
            width: as in `__call__`.
            sampling: steps, guidance, negative prompt and scheduler; None: the defaults with the
                pipeline's scheduler.
            seed: as in `__call__`.
            generator: as in `__call__`.
            images: as in `__call__`.
            callback_on_step_end: as in `__call__`.
            on_segment: as in `__call__`.
            batch_size: as in `__call__`; larger batches are faster and come in larger bursts.
            executor: as in `__call__`.
            store: as in `__call__`; one that keeps what is released makes memory grow.

        Raises:
            ValueError: an argument cannot be, in one line.
        """
        film = self.film(
            prompt,
            num_frames,
            length,
            depth=depth,
            fps=fps,
            height=height,
            width=width,
            sampling=sampling,
            seed=seed,
            generator=generator,
            images=images,
            callback_on_step_end=callback_on_step_end,
            batch_size=batch_size,
            executor=executor,
            store=store,
        )
        stop = film.checked_stop(start, stop)

        def pictures() -> Iterator[np.ndarray]:
            with film, self._progress(stop - start) as progress:
                for picture in film.frames(start, stop, on_segment=on_segment):
                    yield picture
                    progress.update()
            self.maybe_free_model_hooks()

        return pictures()

    def film(
        self,
        prompt: Story | Storyline,
        num_frames: int | None = None,
        length: str | None = None,
        *,
        depth: int | None = None,
        fps: float | None = None,
        height: int | None = None,
        width: int | None = None,
        sampling: SamplingConfig | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        images: Mapping[int | str, Picture] | None = None,
        callback_on_step_end: StepEndCallback | None = None,
        batch_size: int | None = None,
        executor: ExecutorFactory | None = None,
        store: SegmentStore | None = None,
        edits: Sequence[FilmEdit] = (),
    ) -> Film:
        """Plan a film and make nothing yet: any range of it is made when it is asked for.

        `film.frames(100, 120)` makes twenty frames in the middle, `film.frames(max_level=0)` the
        keyframes. Give a store that keeps what is released (`MemoryStore(keep_released=True)`) to
        look at a film more than once. Arguments are as in `__call__` and `stream`; `edits` change
        ranges of that film and leave all other frames as they are.

        Raises:
            ValueError: an argument cannot be, in one line.
        """
        fps = check_fps(self.config["fps"] if fps is None else fps)
        segment_length = self.config["segment_length"]
        num_frames = count_frames(
            num_frames, length, prompt, depth=depth, fps=fps, segment_length=segment_length
        )
        storyline = (
            prompt if isinstance(prompt, Storyline) else Storyline.parse(prompt, num_frames / fps)
        )
        seed = choose_seed(seed, generator)
        sampling = sampling or SamplingConfig(scheduler=self.scheduler_name())
        height = int(self.config["height"]) if height is None else height
        width = int(self.config["width"]) if width is None else width
        denoiser = self.denoiser(
            sampling,
            latent_shape=self.latent_shape(height, width),
            callback_on_step_end=callback_on_step_end,
        )

        def plan(num_frames: int, depth: int | None, pinned: tuple[int, ...]) -> Timeline:
            return Timeline(num_frames, segment_length, depth, pinned)

        # On a CPU little is won beyond 8, and one seed stays one film to the last bit.
        is_cpu = self._execution_device.type == "cpu"
        most = None if is_cpu or batch_size is not None else _MAX_BATCH_SIZE
        size = (8 if is_cpu else 16) if batch_size is None else batch_size

        def in_this_thread(model: SegmentModel) -> Executor:
            return LocalExecutor(model, batch_size=size, max_batch_size=most)

        return assemble_film(
            denoiser,
            self.codec(),
            storyline,
            plan=plan,
            num_frames=num_frames,
            depth=depth,
            fps=fps,
            height=height,
            width=width,
            sampling=sampling,
            seed=seed,
            images=images or {},
            edits=edits,
            executor=executor or in_this_thread,
            store=MemoryStore() if store is None else store,
            # A window's frames fill a CPU already; alone, its pixels are the same to the last bit
            # in any order, clip or edit.
            windows_per_batch=1 if is_cpu else size,
        )

    def _progress(self, num_frames: int) -> Any:
        """The bar of diffusers, in frames."""
        return self.progress_bar(total=num_frames)  # pyright: ignore[reportCallIssue]

    def _collect(
        self, film: Film, output_type: OutputType, on_segment: OnSegment | None, progress: Any
    ) -> np.ndarray | Tensor | list[list[PIL.Image.Image]]:
        """All frames in the form that was asked for, with a batch axis of one film."""
        kind = film.latents if output_type == "latent" else film.pixels
        frames = []
        for _, frame in kind(on_segment=on_segment):
            frames.append(to_picture(frame) if output_type == "pil" else frame)
            progress.update()
        if output_type == "pil":
            return [[PIL.Image.fromarray(picture) for picture in frames]]
        film_tensor = torch.stack(frames)[None]
        if output_type == "np":
            return rearrange(film_tensor, "b f c h w -> b f h w c").numpy()
        return film_tensor
