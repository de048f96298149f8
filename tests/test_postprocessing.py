"""Steps after a film's frames are made: what they do, and that a clip shows what the film shows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionUpscalePipeline
from tiny import tiny_pipeline

from nuwaxl.films.interpolation import interpolated_frames
from nuwaxl.postprocessing import (
    BurnCaptions,
    Cue,
    Deflicker,
    FrameStep,
    LanczosUpscale,
    ModelUpscale,
    check_sound,
    cues_of,
    finish,
    finish_range,
    flicker,
    mux,
    write_srt,
)
from nuwaxl.stores.store import MemoryStore
from nuwaxl.tree.storyline import Storyline
from nuwaxl.video import read_video, write_video

CUES = (Cue(0.0, 1.0, "a dog {runs}"), Cue(1.0, 2.5, "a cat"))


def flickering(num_frames: int = 30, *, cut: int | None = None) -> list[np.ndarray]:
    """A picture whose brightness drifts steadily and jumps to and fro; another after the cut."""
    rng = np.random.default_rng(0)
    base = rng.uniform(40, 120, (16, 24, 3))
    jumps = rng.normal(0, 4, num_frames)
    frames = []
    for number in range(num_frames):
        shown = base + 100 if cut is not None and number >= cut else base
        frames.append((shown + number + jumps[number]).clip(0, 255).round().astype(np.uint8))
    return frames


def test_deflicker_takes_the_jumps_and_leaves_the_drift() -> None:
    frames = flickering()
    done = list(Deflicker(4).apply(frames))
    assert len(done) == len(frames)
    assert flicker(done) < 0.35 * flicker(frames)
    means = [frame.mean() for frame in done]
    assert means[24] - means[5] == pytest.approx(19, abs=3)


def test_deflicker_leaves_a_steady_film_and_does_not_look_over_a_cut() -> None:
    still = [np.full((8, 8, 3), 90, np.uint8)] * 6
    assert all(np.array_equal(a, b) for a, b in zip(still, Deflicker(3).apply(still), strict=True))
    frames = flickering(cut=15)
    alone = list(Deflicker(4).apply(frames[:15]))
    both = list(Deflicker(4).apply(frames))
    assert all(np.array_equal(a, b) for a, b in zip(alone, both[:15], strict=True))


@pytest.mark.parametrize("cut", [None, 13])
def test_a_clip_of_the_finished_film_is_the_finished_film_there(cut: int | None) -> None:
    frames = flickering(cut=cut)
    steps: list[FrameStep] = [
        Deflicker(3), Deflicker(2), LanczosUpscale(1.5), BurnCaptions(CUES, 12.0)
    ]  # fmt: skip
    whole = list(finish(frames, steps))
    for start, stop in ((0, 3), (9, 17), (12, 13), (27, 30)):
        clip = list(finish_range(lambda a, b: frames[a:b], steps, start, stop, len(frames)))
        assert len(clip) == stop - start
        assert all(np.array_equal(a, b) for a, b in zip(clip, whole[start:stop], strict=True))
    with pytest.raises(ValueError, match="0 <= start < stop <= 30, got 4 and 31"):
        list(finish_range(lambda a, b: frames[a:b], steps, 4, 31, 30))


def test_steps_hold_a_window_and_not_the_film() -> None:
    taken = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            yield np.zeros((8, 8, 3), np.uint8)

    steps: list[FrameStep] = [Deflicker(5), LanczosUpscale(2), BurnCaptions(CUES, 8.0)]
    stream = finish(endless(), steps)
    for shown in range(1, 40):
        assert next(stream).shape == (16, 16, 3)
        assert taken == shown + 5


def test_lanczos_gives_the_size_and_keeps_flat_colours() -> None:
    frame = np.full((10, 14, 3), 77, np.uint8)
    (large,) = LanczosUpscale(2.5).apply([frame])
    assert large.shape == (25, 35, 3)
    assert (large == 77).all()


@pytest.mark.parametrize("factor", [0.5, 1.0, 17.0, float("nan")])
def test_a_size_that_cannot_be_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match="`factor` must be above 1 and at most 16"):
        LanczosUpscale(factor)


class Doubling(DiffusionPipeline):
    """What a step asks of an upscaler, and what it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, int]] = []

    def __call__(self, prompt: str, image: object, generator: torch.Generator, output_type: str):
        """Twice the size."""
        self.asked.append((prompt, generator.initial_seed()))
        picture = image.resize((2 * image.width, 2 * image.height))  # pyright: ignore
        return type("Result", (), {"images": [picture]})


def test_an_upscaler_gets_each_frames_prompt_and_the_same_noise() -> None:
    upscaler = Doubling()
    step = ModelUpscale(upscaler, lambda frame: f"frame {frame}", factor=3, seed=5)
    frames = list(step.apply(flickering(2), first=7))
    assert [frame.shape for frame in frames] == [(48, 72, 3)] * 2
    assert upscaler.asked == [("frame 7", 5), ("frame 8", 5)]


def test_any_upscaler_of_diffusers_works(tiny_upscaler: StableDiffusionUpscalePipeline) -> None:
    step = ModelUpscale(tiny_upscaler, lambda _: "a dog", num_inference_steps=1, guidance_scale=1)
    frame = flickering(1)[0][:16, :16]
    (first,), (again,) = (list(step.apply([frame], first=n)) for n in (0, 9))
    assert first.shape == (64, 64, 3)
    assert np.array_equal(first, again)
    with pytest.raises(ValueError, match="must take pictures, and a LongVideoPipeline does not"):
        ModelUpscale(tiny_pipeline(), lambda _: "")


@pytest.fixture(scope="module")
def tiny_upscaler() -> StableDiffusionUpscalePipeline:
    from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
    from tiny import tiny_text_encoder, tiny_tokenizer

    torch.manual_seed(0)
    unet: Any = UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, in_channels=7, out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), norm_num_groups=4,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=12,
        attention_head_dim=4, num_class_embeds=100,
    )  # fmt: skip
    blocks: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": (8, 8, 8),
    }
    vae = AutoencoderKL(latent_channels=4, norm_num_groups=4, **blocks)
    texts: Any = tiny_text_encoder()
    tokenizer: Any = tiny_tokenizer()
    scheduler: Any = DDIMScheduler()
    upscaler = StableDiffusionUpscalePipeline(
        vae, texts, tokenizer, unet, DDPMScheduler(), scheduler, max_noise_level=50
    )
    upscaler.set_progress_bar_config(disable=True)
    return upscaler


def test_cues_are_the_scenes_and_the_subtitle_file_tells_them(tmp_path: Path) -> None:
    story = Storyline.parse({"0s": "a dog\nruns", "1s": "a cat", "1h": "never shown"}, 7200)
    cues = cues_of(story, 3599.9994)
    assert cues == (Cue(0.0, 1.0, "a dog runs"), Cue(1.0, 3599.9994, "a cat"))
    write_srt(tmp_path / "film.srt", cues)
    assert (tmp_path / "film.srt").read_text() == (
        "1\n00:00:00,000 --> 00:00:01,000\na dog runs\n\n2\n00:00:01,000 --> 00:59:59,999\na cat\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["film.srt"]


def test_captions_change_the_lower_part_while_they_are_shown() -> None:
    frames = [np.full((64, 96, 3), 120, np.uint8)] * 24
    done = list(BurnCaptions(CUES, 8.0).apply(frames))
    assert all((frame[:32] == 120).all() for frame in done)
    assert np.array_equal(done[0], done[7])
    assert not np.array_equal(done[7], done[8])
    assert done[8].max() > 200 > 60 > done[8].min()
    assert np.array_equal(done[20], frames[20])
    with pytest.raises(ValueError, match="`font` must be a TrueType or OpenType file, got"):
        BurnCaptions(CUES, 8.0, font=__file__)


def write_sound(path: Path, seconds: float) -> None:
    """A tone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=22_050, layout="mono")
        wave = np.sin(2 * np.pi * 440 * np.arange(int(seconds * 22_050)) / 22_050)
        frame = av.AudioFrame.from_ndarray(
            (20_000 * wave).astype(np.int16)[None], format="s16", layout="mono"
        )
        frame.sample_rate = 22_050
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".webm"])
def test_sound_is_repeated_or_cut_to_the_film_whose_pictures_stay_bit_for_bit(
    tmp_path: Path, ending: str
) -> None:
    film, output = tmp_path / f"film{ending}", tmp_path / f"out{ending}"
    write_video(flickering(20), film, 8)
    for seconds in (0.7, 9.0):
        write_sound(tmp_path / "tone.wav", seconds)
        has_text = ending != ".webm"
        mux(
            film, output, sound=tmp_path / "tone.wav", cues=CUES if has_text else (), overwrite=True
        )
        with av.open(str(output)) as container:
            samples = [frame.to_ndarray() for frame in container.decode(audio=0)]
        wave = np.concatenate(samples, axis=1)[0]
        assert len(wave) / 48_000 == pytest.approx(2.5, abs=0.03)
        assert np.abs(wave[-4800:-2400]).max() > 0.3
        container: Any
        with av.open(str(output)) as container:
            kinds = [stream.type for stream in container.streams]
            assert kinds == ["video", "audio"] + (["subtitle"] if has_text else [])
            texts = [
                (float(packet.pts * packet.time_base), subtitle.ass.decode().split(",,")[-1])
                for packet in (container.demux(subtitles=0) if has_text else ())
                if packet.size and packet.pts is not None
                for subtitle in packet.decode()
            ]
        assert texts == ([(0.0, "a dog (runs)"), (1.0, "a cat")] if has_text else [])
        pairs = zip(read_video(film), read_video(output), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)
    assert len(list(tmp_path.iterdir())) == 3


def test_what_has_no_sound_and_what_can_hold_none_is_refused(tmp_path: Path) -> None:
    write_video(flickering(2), tmp_path / "film.mp4", 8)
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.raises(ValueError, match=r"film\.mp4' holds no sound"):
        check_sound(tmp_path / "film.mp4")
    with pytest.raises(ValueError, match="cannot be read as sound"):
        check_sound(tmp_path / "text.wav")
    with pytest.raises(FileNotFoundError, match="no sound file"):
        check_sound(tmp_path / "none.wav")
    with pytest.raises(ValueError, match=r"subtitles can be kept in \.mkv, \.mp4, got"):
        mux(tmp_path / "film.mp4", tmp_path / "out.webm", cues=CUES)


def test_interpolation_keeps_the_films_frames_and_fills_between_them_in_any_order() -> None:
    store = MemoryStore(keep_released=True)
    film = tiny_pipeline().film(["a dog runs", "a cat walks"], 6, fps=4.0, store=store, seed=3)
    own = list(film.frames())
    stored = len(store)
    whole = list(interpolated_frames(film, 3))
    assert len(whole) == 5 * 3 + 1
    assert all(np.array_equal(a, b) for a, b in zip(whole[::3], own, strict=True))
    assert len({frame.tobytes() for frame in whole}) == len(whole)
    clip = list(interpolated_frames(film, 3, 2, 5))
    assert all(np.array_equal(a, b) for a, b in zip(clip, whole[6:13], strict=True))
    assert len(store) == stored
    job = film.orchestrator.plan.between(2, 3)
    assert job.times == pytest.approx([2 / 4 + i / 12 for i in range(4)])
    assert job.segment.given == (True, False, False, True)
    assert job.prompts[0] == "a dog runs"
    assert job.prompts[-1] == "a cat walks"
    assert job.key != film.orchestrator.plan.between(2, 2).key
    with pytest.raises(ValueError, match="`factor` must be from 2 to 3"):
        list(interpolated_frames(film, 4))
