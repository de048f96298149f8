"""Films by pretrained models, in place of `LongVideoPipeline`.

Knows how the parts fit together; each part's own work is elsewhere.
"""

from collections.abc import Mapping, Sequence

import torch

from nuwaxl.backends.catalogue import BackendChoice, choose_backends
from nuwaxl.backends.checkpoints import check_choice, check_prompts
from nuwaxl.backends.loading import LoadSettings
from nuwaxl.backends.runs import join_prompts
from nuwaxl.backends.segment_model import BackendModel
from nuwaxl.denoising.sampling import SamplingConfig
from nuwaxl.executors.local import LocalExecutor
from nuwaxl.films.assembly import ExecutorFactory, assemble_film
from nuwaxl.films.film import Film
from nuwaxl.films.inputs import FilmEdit, check_fps, choose_seed, count_frames
from nuwaxl.pictures.codecs import PixelCodec
from nuwaxl.pictures.reading import Picture
from nuwaxl.stores.store import EightBitStore, MemoryStore, SegmentStore
from nuwaxl.tree.coarse_to_fine import Executor, SegmentModel
from nuwaxl.tree.storyline import Story, Storyline


class BackendPipeline:
    """Films of any length by pretrained video and image models, from coarse to fine.

    No weights are loaded before the first run.

    Args:
        choice: which models, and at which size.
        load: device, precision and how to save memory.

    Raises:
        ValueError: a package is missing, or a checkpoint cannot do its part.
    """

    def __init__(self, choice: BackendChoice, load: LoadSettings | None = None) -> None:
        self.choice = choice
        self.load = load or LoadSettings()
        if choice.quantize is not None and self.load.torch_device.type == "cpu":
            raise ValueError(
                f"`quantize` {choice.quantize} needs an accelerator, for bitsandbytes, and this "
                "runs on the CPU: leave it out."
            )
        check_choice(choice)

    @classmethod
    def from_names(
        cls,
        model: str | None = None,
        *,
        checkpoint: str | None = None,
        global_model: str | None = None,
        local_model: str | None = None,
        size: str | None = None,
        segment_length: int | None = None,
        device: str = "auto",
        dtype: str = "auto",
        offload: str | None = None,
        quantize: str | None = None,
    ) -> "BackendPipeline":
        """Choose models by their names: 'wan-vace', 'wan-flf', 'ltx', 'stills', 'pictures'.

        Args:
            model: for both roles.
            checkpoint: a folder or an id of the hub with `model`'s weights; None: its usual ones.
            global_model: 'NAME' or 'NAME=CHECKPOINT' for the keyframes.
            local_model: the same for the frames between.
            size: 'WIDTHxHEIGHT'; None: the local model's.
            segment_length: most frames in a run; None: what the models are made for.
            device: such as 'cuda'; 'auto': the fastest here.
            dtype: 'float32', 'bfloat16' or 'float16'; 'auto': what is fast and safe there.
            offload: 'model', 'sequential' or 'group', to save the device's memory.
            quantize: '4bit' or '8bit', with bitsandbytes; the film is another then.

        Raises:
            ValueError: one line with argument, rule, value and way out.
        """
        choice = choose_backends(
            model=model,
            checkpoint=checkpoint,
            global_model=global_model,
            local_model=local_model,
            size=size,
            segment_length=segment_length,
            quantize=quantize,
        )
        if choice is None:
            raise ValueError(
                f"`model` must name a pretrained model, got {model!r}; checkpoints of "
                "`nuwaxl train` are for LongVideoPipeline."
            )
        return cls(choice, LoadSettings(device, dtype, offload))

    def film(
        self,
        prompt: Story | Storyline,
        num_frames: int | None = None,
        length: str | None = None,
        *,
        depth: int | None = None,
        fps: float | None = None,
        sampling: SamplingConfig | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        images: Mapping[int | str, Picture] | None = None,
        batch_size: int | None = None,
        executor: ExecutorFactory | None = None,
        store: SegmentStore | None = None,
        edits: Sequence[FilmEdit] = (),
    ) -> Film:
        """Plan a film and make nothing yet: any range of it is made when it is asked for.

        Args:
            prompt: one text, a list (equal shares), time -> text, scenes, or a `Storyline`.
            num_frames: of the film; or give `length`, `depth` alone, or scenes with durations.
            length: frames ('240') or a time ('30s').
            depth: levels of the keyframe tree; None: the fewest that reach every frame.
            fps: frames per second; None: the local model's own. The models do not know another.
            sampling: steps, guidance, negative prompt; None: as the models' authors use them.
            seed: one seed, one film; None: 0.
            generator: draws the seed instead.
            images: frame number or time -> picture to show there, exactly.
            batch_size: must be 1, if given.
            executor: makes the executor from the segment model; None: in this thread.
            store: keeps finished segments, in 8 bits; None: memory.
            edits: what was changed since, in that order.

        Raises:
            ValueError: an argument cannot be, in one line.
        """
        choice = self.choice
        if batch_size not in (None, 1):
            raise ValueError(
                f"`batch_size` must be 1 for {choice.names}, which make one clip at a time, got "
                f"{batch_size}: leave it out."
            )
        fps = check_fps(choice.fps if fps is None else fps)
        if num_frames is None and length is None and depth is not None:
            num_frames = choice.full_frames(depth)
        num_frames = count_frames(
            num_frames,
            length,
            prompt,
            depth=depth,
            fps=fps,
            segment_length=choice.segment_length,
        )
        storyline = (
            prompt if isinstance(prompt, Storyline) else Storyline.parse(prompt, num_frames / fps)
        )
        sampling = self._checked(sampling or SamplingConfig(**choice.sampling_defaults))  # pyright: ignore[reportArgumentType]
        check_prompts(choice, self._longest_prompts(storyline, edits))

        def in_this_thread(model: SegmentModel) -> Executor:
            return LocalExecutor(model)

        return assemble_film(
            BackendModel(choice, sampling, self.load, fps=fps),
            PixelCodec(),
            storyline,
            plan=choice.timeline,
            num_frames=num_frames,
            depth=depth,
            fps=fps,
            height=choice.height,
            width=choice.width,
            sampling=sampling,
            seed=choose_seed(seed, generator),
            images=images or {},
            edits=edits,
            executor=executor or in_this_thread,
            store=EightBitStore(MemoryStore() if store is None else store),
            windows_per_batch=1,
        )

    def _checked(self, sampling: SamplingConfig) -> SamplingConfig:
        """Complete settings, if these models have them.

        Raises:
            ValueError: a scheduler is named, or guidance is rescaled where it cannot be.
        """
        usual = SamplingConfig()
        if sampling.scheduler != usual.scheduler:
            raise ValueError(
                f"`scheduler` must be left out for {self.choice.names}, which bring their own, got "
                f"{sampling.scheduler!r}."
            )
        if (sampling.guidance_stop, sampling.local_guidance_stop) != (1.0, None):
            raise ValueError(
                f"`guidance_stop` and `local_guidance_stop` must be left out for "
                f"{self.choice.names}, which guide every step, got {sampling.guidance_stop} and "
                f"{sampling.local_guidance_stop}."
            )
        if sampling.guidance_rescale and any(
            role.backend.name != "ltx" for role in self.choice.roles
        ):
            raise ValueError(
                f"`guidance_rescale` must be 0 for {self.choice.names}, got "
                f"{sampling.guidance_rescale}; only ltx has it."
            )
        return self.choice.with_local_defaults(sampling)

    def _longest_prompts(self, storyline: Storyline, edits: Sequence[FilmEdit]) -> list[str]:
        """The texts of the global run, or of single scenes where each keyframe has its own."""
        stories = [storyline, *(edit.storyline for edit in edits)]
        prompts = [[scene.prompt for scene in story.scenes] for story in stories]
        if self.choice.global_role.backend.still:
            return [prompt for scenes in prompts for prompt in scenes]
        return [join_prompts(scenes) for scenes in prompts]
