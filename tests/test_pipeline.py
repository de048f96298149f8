import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from tiny import LATENT_SHAPE, SIZE, tiny_pipeline
from torch import Tensor

from nuwaxl.denoising.sampling import SamplingConfig
from nuwaxl.executors.local import LocalExecutor, ThreadedExecutor
from nuwaxl.pipelines.long_video import LongVideoPipeline
from nuwaxl.stores.store import MemoryStore
from nuwaxl.tree.coarse_to_fine import SegmentJob
from nuwaxl.tree.storyline import Storyline

FAST: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 1.0}
SAMPLING = SamplingConfig(num_inference_steps=2, guidance_scale=1.0)
# Kernels round by batch shape; measured below 1e-6 here.
TOLERANCE: dict[str, Any] = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module")
def pipe() -> LongVideoPipeline:
    return tiny_pipeline()


def latents_of(pipe: LongVideoPipeline, *args: Any, **changes: Any) -> Tensor:
    return pipe(*args, **{**FAST, "output_type": "latent", **changes}).frames


def picture(value: int = 200) -> np.ndarray:
    ramp = np.linspace(0, value, SIZE * SIZE * 3).reshape(SIZE, SIZE, 3)
    return ramp.astype(np.uint8)


def test_frames_come_in_every_form_that_diffusers_video_pipelines_have(
    pipe: LongVideoPipeline,
) -> None:
    array = pipe("a dog runs", 5, **FAST).frames
    assert isinstance(array, np.ndarray)
    assert array.shape == (1, 5, SIZE, SIZE, 3)
    assert array.dtype == np.float32
    assert array.min() >= 0
    assert array.max() <= 1
    tensor = pipe("a dog runs", 5, output_type="pt", **FAST).frames
    assert isinstance(tensor, Tensor)
    assert tensor.shape == (1, 5, 3, SIZE, SIZE)
    assert np.array_equal(tensor[0].permute(0, 2, 3, 1).numpy(), array[0])
    (pictures,) = pipe("a dog runs", 5, output_type="pil", **FAST).frames
    assert [type(entry) for entry in pictures] == [PIL.Image.Image] * 5
    assert np.array_equal(np.asarray(pictures[3]), np.round(array[0, 3] * 255).astype(np.uint8))
    (latents,) = pipe("a dog runs", 5, output_type="latent", return_dict=False, **FAST)
    assert latents.shape == (1, 5, *LATENT_SHAPE)


@pytest.mark.parametrize("num_frames", [1, 2, 17, 40])
def test_a_film_has_exactly_the_frames_asked_for(pipe: LongVideoPipeline, num_frames: int) -> None:
    assert latents_of(pipe, "a dog", num_frames).shape[1] == num_frames
    pictures = list(pipe.stream("a dog", num_frames, sampling=SAMPLING))
    assert [entry.shape for entry in pictures] == [(SIZE, SIZE, 3)] * num_frames


def test_length_may_be_said_as_time_depth_or_scenes(pipe: LongVideoPipeline) -> None:
    def count(prompt: Any = "a dog", **said: Any) -> int:
        return pipe.film(prompt, **said).timeline.num_frames

    assert count(length="40") == 40
    assert count(length="2s") == 16
    assert count(length="2s", fps=12.0) == 24
    assert count(depth=3) == 28
    scenes = [{"prompt": "a dog", "duration": 1}, {"prompt": "a cat", "duration": 2}]
    assert count(scenes) == 24


def test_one_seed_is_one_film(pipe: LongVideoPipeline) -> None:
    film = latents_of(pipe, "a dog", 17, seed=3)
    assert torch.equal(latents_of(pipe, "a dog", 17, seed=3), film)
    assert not torch.equal(latents_of(pipe, "a dog", 17, seed=4), film)
    drawn = [
        latents_of(pipe, "a dog", 4, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
def test_batch_size_and_order_do_not_change_the_film(
    pipe: LongVideoPipeline, scheduler: str
) -> None:
    film = latents_of(pipe, "a dog", 24, batch_size=1, scheduler=scheduler)
    batched = latents_of(pipe, "a dog", 24, batch_size=5, scheduler=scheduler)
    torch.testing.assert_close(batched, film, **TOLERANCE)
    sampling = SamplingConfig(num_inference_steps=2, guidance_scale=1.0, scheduler=scheduler)
    levelwise = pipe.film("a dog", 24, sampling=sampling, batch_size=3)
    made = {}
    for job, latents in levelwise.orchestrator.run(order="level"):
        made |= dict(zip(job.segment.frames, latents, strict=True))
    by_level = torch.stack([made[frame] for frame in range(24)])
    torch.testing.assert_close(by_level[None], film, **TOLERANCE)


def test_any_range_is_the_same_part_of_the_film_at_the_price_of_its_ancestors(
    pipe: LongVideoPipeline,
) -> None:
    whole = np.stack(list(pipe.stream("a dog", 40, sampling=SAMPLING))).astype(int)
    runs: list[SegmentJob] = []
    part = pipe.stream(
        "a dog",
        40,
        sampling=SAMPLING,
        start=20,
        stop=22,
        on_segment=lambda job, _: runs.append(job),
    )
    assert np.abs(np.stack(list(part)) - whole[20:22]).max() <= 1  # of 255
    assert len(runs) <= pipe.film("a dog", 40).timeline.num_levels + 1


def test_keyframes_are_a_preview_of_the_whole_film(pipe: LongVideoPipeline) -> None:
    film = pipe.film("a dog", 40, sampling=SAMPLING, store=MemoryStore(keep_released=True))
    keyframes = dict(film.latents(max_level=0))
    assert len(keyframes) == film.timeline.branching[0] + 1
    assert len(list(film.frames(max_level=0))) == len(keyframes)
    whole = dict(film.latents())
    assert all(torch.equal(whole[frame], latents) for frame, latents in keyframes.items())


def test_stream_yields_what_a_call_returns(pipe: LongVideoPipeline) -> None:
    frames = pipe("a dog", 17, **FAST).frames
    streamed = np.stack(list(pipe.stream("a dog", 17, sampling=SAMPLING)))
    assert np.array_equal(streamed, np.round(frames[0] * 255).astype(np.uint8))


def test_a_stream_begins_before_the_film_is_made_and_its_memory_does_not_grow(
    pipe: LongVideoPipeline,
) -> None:
    sampling = SamplingConfig(num_inference_steps=1, guidance_scale=1.0)
    peaks, first = [], []
    for num_frames in (50, 200):
        store, runs = MemoryStore(), []
        held = []
        stream = pipe.stream(
            "a dog",
            num_frames,
            depth=5,
            sampling=sampling,
            batch_size=2,
            store=store,
            on_segment=lambda job, _, runs=runs: runs.append(job.key),
        )
        for _ in stream:
            held.append(len(store))
            if len(held) == 1:
                first.append(len(runs))
        peaks.append(max(held))
    assert first[1] <= 20  # of 90 and more
    assert peaks[1] <= peaks[0] + 5  # one more level's worth at most


def test_each_moment_has_its_own_prompt(pipe: LongVideoPipeline) -> None:
    story = {0: "a dog", "1s": "a cat"}
    film = pipe.film(story, 16, sampling=SAMPLING)
    jobs = [film.orchestrator.job(segment) for segment in film.timeline.segments()]
    said = {
        frame: prompt
        for job in jobs
        for frame, prompt in zip(job.segment.frames, job.prompts, strict=True)
    }
    assert said == {frame: "a dog" if frame < 8 else "a cat" for frame in range(16)}
    parsed = Storyline.parse(story, 2.0)
    assert torch.equal(latents_of(pipe, story, 16), latents_of(pipe, parsed, 16))
    assert not torch.equal(latents_of(pipe, story, 16), latents_of(pipe, "a dog", 16))


def test_pinned_pictures_are_shown_at_their_frames_as_the_vae_rebuilds_them(
    pipe: LongVideoPipeline, tmp_path: Path
) -> None:
    PIL.Image.fromarray(picture(90)).save(tmp_path / "still.png")
    images = {5: PIL.Image.fromarray(picture()), "2s": tmp_path / "still.png", 0: picture() / 255}
    latents = latents_of(pipe, "a dog", 24, images=images)[0]
    for frame, value in ((0, 200), (5, 200), (16, 90)):
        assert torch.equal(latents[frame], pipe.encode_picture(picture(value)))
    plain = latents_of(pipe, "a dog", 24)[0]
    assert not torch.equal(latents[4], plain[4])


def test_a_pinned_picture_is_known_by_its_content(pipe: LongVideoPipeline) -> None:
    def key(value: int) -> str:
        film = pipe.film("a dog", 4, images={2: picture(value)})
        return film.orchestrator.job(next(film.timeline.segments())).key

    assert key(200) == key(200) != key(90)


def test_a_picture_of_another_size_is_cut_around_its_centre(pipe: LongVideoPipeline) -> None:
    wide = np.zeros((SIZE, 3 * SIZE, 3), np.uint8)
    wide[:, SIZE : 2 * SIZE] = picture()
    latents = latents_of(pipe, "a dog", 2, images={1: wide})
    assert torch.equal(latents[0, 1], pipe.encode_picture(picture()))


def test_other_sizes_than_the_trained_one(pipe: LongVideoPipeline) -> None:
    frames = pipe("a dog", 4, height=2 * SIZE, width=3 * SIZE, **FAST).frames
    assert np.shape(frames) == (1, 4, 2 * SIZE, 3 * SIZE, 3)


def test_callbacks_hear_of_every_step_and_every_segment(pipe: LongVideoPipeline) -> None:
    steps, segments = [], []

    def on_step(pipeline: Any, step: int, timestep: Tensor, values: dict) -> dict:
        assert pipeline is pipe
        steps.append(step)
        return values

    latents_of(
        pipe,
        "a dog",
        8,
        batch_size=1,
        callback_on_step_end=on_step,
        on_segment=lambda job, latents: segments.append(job.segment),
    )
    assert len(set(segments)) == len(segments) == pipe.film("a dog", 8).timeline.num_segments
    # Two steps for the keyframes, half as many for what lies between.
    assert steps == [0, 1] + [0] * (len(segments) - 1)


def test_the_progress_bar_counts_frames(pipe: LongVideoPipeline) -> None:
    shown = io.StringIO()
    pipe.set_progress_bar_config(file=shown)
    latents_of(pipe, "a dog", 7)
    pipe.set_progress_bar_config(disable=True)
    assert "7/7" in shown.getvalue()


def test_finished_segments_are_not_run_again(pipe: LongVideoPipeline) -> None:
    store, runs = MemoryStore(keep_released=True), []
    settings = {"store": store, "on_segment": lambda job, _: runs.append(job.key)}
    first = latents_of(pipe, "a dog", 17, **settings)
    made = len(runs)
    assert torch.equal(latents_of(pipe, "a dog", 17, **settings), first)
    assert len(runs) == made > 1
    latents_of(pipe, "a dog", 17, seed=1, **settings)
    assert len(runs) == 2 * made


def test_another_executor_makes_the_same_film_and_is_closed(pipe: LongVideoPipeline) -> None:
    executors: list[ThreadedExecutor] = []

    def threads(model: Any) -> ThreadedExecutor:
        executors.append(ThreadedExecutor([model, model], batch_size=2))
        return executors[0]

    film = latents_of(pipe, "a dog", 24, executor=threads)
    torch.testing.assert_close(film, latents_of(pipe, "a dog", 24), **TOLERANCE)
    with pytest.raises(RuntimeError, match="shutdown"):
        executors[0].submit([], torch.zeros(0, 4, *LATENT_SHAPE))
    denoiser = pipe.denoiser(SAMPLING)
    own = latents_of(pipe, "a dog", 24, executor=lambda _: LocalExecutor(denoiser, batch_size=4))
    torch.testing.assert_close(own, film, **TOLERANCE)


def test_the_pipelines_scheduler_samples_unless_another_is_named() -> None:
    pipe = tiny_pipeline()
    named = latents_of(pipe, "a dog", 4, scheduler="dpmpp_2m", num_inference_steps=4)
    assert not torch.equal(latents_of(pipe, "a dog", 4, num_inference_steps=4), named)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    assert torch.equal(latents_of(pipe, "a dog", 4, num_inference_steps=4), named)


def test_bf16_products_make_nearly_the_same_film() -> None:
    pipe = tiny_pipeline()
    exact = latents_of(pipe, "a dog", 8)
    pipe.compute_dtype = torch.bfloat16
    fast = latents_of(pipe, "a dog", 8)
    assert fast.dtype == torch.float32
    assert 0 < (fast - exact).abs().max() < 0.1


def test_half_precision_weights_make_nearly_the_same_film() -> None:
    exact = latents_of(tiny_pipeline(), "a dog", 8, images={3: picture()})
    half = latents_of(tiny_pipeline().to(torch.bfloat16), "a dog", 8, images={3: picture()})
    assert half.dtype == torch.float32
    assert 0 < (half - exact).abs().max() < 0.2


def test_a_saved_pipeline_makes_the_same_film_again(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["global_unet"] == ["nuwaxl", "MaskUNet3D"]
    assert index["vae"] == ["nuwaxl", "TemporalAutoencoderKL"]
    assert (index["height"], index["width"], index["segment_length"]) == (SIZE, SIZE, 4)
    loaded = LongVideoPipeline.from_pretrained(tmp_path, dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    assert np.array_equal(loaded("a dog", 17, **FAST).frames, pipe("a dog", 17, **FAST).frames)
    other = LongVideoPipeline.from_pretrained(tmp_path, local_unet=tiny_pipeline(5).local_unet)
    assert other.fingerprint != pipe.fingerprint


def test_a_checkpoint_loads_in_a_fresh_process_and_in_half_precision(tmp_path: Path) -> None:
    pipe = tiny_pipeline().to(torch.float16)
    pipe.save_pretrained(tmp_path, variant="fp16")
    code = (
        "import sys, nuwaxl\n"
        "pipe = nuwaxl.LongVideoPipeline.from_pretrained(sys.argv[1], variant='fp16')\n"
        "print(type(pipe.local_unet).__name__, pipe.local_unet.dtype, pipe.fingerprint)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    loaded = LongVideoPipeline.from_pretrained(tmp_path, variant="fp16")
    assert done.stdout.split() == ["MaskUNet3D", "torch.float32", loaded.fingerprint]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"prompt": ""}, "`prompt` must say what is shown"),
        ({"num_frames": None}, "length is missing"),
        ({"length": "3s"}, "`num_frames` and `length`"),
        ({"num_frames": 0}, "`num_frames` must be a whole number of 1 or more, got 0"),
        ({"num_frames": None, "length": "abc"}, "`length` must be a number of frames or a time"),
        ({"fps": 0.0}, "`fps` must be a number above 0"),
        ({"depth": 9}, "`depth`"),
        ({"height": 17}, "`height` must be a multiple of 8 pixels"),
        ({"seed": -1}, "`seed` must be a whole number from 0"),
        ({"seed": 1, "generator": torch.Generator()}, "`seed` and `generator`"),
        ({"scheduler": "heun"}, "`scheduler` must be one of"),
        ({"num_inference_steps": 0}, "`num_inference_steps` must be .* from 1"),
        ({"guidance_scale": -1.0}, "`guidance_scale` must be"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"images": {8: picture()}}, "`images` must lie in frames 0 to 7, got 8"),
        ({"images": {4: picture(), "0.5s": picture()}}, "two for frame 4"),
        ({"images": {1: "missing.png"}}, "`images` must be pictures or their paths"),
        ({"images": {1: picture()[..., :2]}}, "`images` must be arrays of shape"),
        ({"images": {1: picture().astype(np.float32)}}, "`images` must be arrays of uint8 or"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_before_anything_runs(
    pipe: LongVideoPipeline, said: dict[str, Any], message: str
) -> None:
    def never(*_: Any) -> dict:
        raise AssertionError("a network ran")

    arguments: dict[str, Any] = {"prompt": "a dog", "num_frames": 8} | said
    with pytest.raises(ValueError, match=message) as caught:
        pipe(**arguments, callback_on_step_end=never)
    assert "\n" not in str(caught.value)


def test_a_range_outside_the_film_is_refused_at_once(pipe: LongVideoPipeline) -> None:
    with pytest.raises(ValueError, match=r"0 <= start < stop <= 8, got 8 and 8"):
        pipe.stream("a dog", 8, start=8)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no model_index\.json"):
        LongVideoPipeline.from_pretrained(tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(TypeError, match=r"Unknown components \['unet'\]"):
        LongVideoPipeline.from_pretrained(tmp_path, unet=None)
