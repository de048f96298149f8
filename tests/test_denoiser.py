from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from tiny import (
    LATENT_SHAPE,
    tiny_prompt_adapter,
    tiny_scheduler,
    tiny_text_encoder,
    tiny_tokenizer,
    tiny_unet,
)
from torch import Tensor, nn

from nuwaxl.denoising.denoiser import (
    SCHEDULERS,
    SegmentDenoiser,
    draw_noise,
    frame_generator,
    make_scheduler,
    rescale_guidance,
)
from nuwaxl.denoising.sampling import SamplingConfig
from nuwaxl.denoising.text import PromptEncoder
from nuwaxl.tree.coarse_to_fine import SegmentJob, SegmentModel
from nuwaxl.tree.timeline import Segment

PREDICTIONS = ("epsilon", "v_prediction")
STOCHASTIC = ("ddpm", "lcm")


def job(
    frames: tuple[int, ...] = (0, 5, 10, 15),
    given: tuple[bool, ...] = (False, False, False, False),
    *,
    level: int = 0,
    prompts: tuple[str, ...] = ("a dog",) * 4,
    seed: int = 0,
) -> SegmentJob:
    times = tuple(frame / 8 for frame in frames)
    return SegmentJob("key", Segment(level, 0, frames, given), times, prompts, seed, (None,) * 4)


def local_job(first: int = 0, **changes: Any) -> SegmentJob:
    frames = tuple(range(first, first + 4))
    return job(frames, (True, False, False, True), level=1, **changes)


def latents(*jobs: SegmentJob, seed: int = 7) -> Tensor:
    """Given latents at given frames, zero elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(jobs), 4, *LATENT_SHAPE)
    given = torch.tensor([entry.segment.given for entry in jobs])[..., None, None, None]
    return torch.randn(shape, generator=generator) * given


def prompt_encoder(**changes: Any) -> PromptEncoder:
    return PromptEncoder(
        tiny_tokenizer(), tiny_text_encoder(), tiny_prompt_adapter(), device="cpu", **changes
    )


def denoiser(
    unet: nn.Module | None = None,
    local_unet: nn.Module | None = None,
    *,
    prediction_type: str = "v_prediction",
    dtype: torch.dtype = torch.float32,
    on_step: Any = None,
    **sampling: Any,
) -> SegmentDenoiser:
    unet = unet or tiny_unet()
    # One effort at all levels unless a test says otherwise.
    steps, guidance = sampling.get("num_inference_steps", 3), sampling.get("guidance_scale", 2.0)
    told = {"local_num_inference_steps": steps, "local_guidance_scale": guidance, **sampling}
    told.setdefault("local_guidance_stop", 1.0)
    return SegmentDenoiser(
        unet,
        local_unet or unet,
        tiny_scheduler(prediction_type),
        SamplingConfig(**{"num_inference_steps": 3, "scheduler": "ddim", **told}),
        prompt_encoder(),
        latent_shape=LATENT_SHAPE,
        dtype=dtype,
        on_step=on_step,
    )


@dataclass
class Prediction:
    sample: Tensor


class Oracle(nn.Module):
    """Knows the clean latents, so it predicts the true noise or velocity; remembers its inputs."""

    dtype = torch.float32

    def __init__(self, clean: Tensor, scheduler: str, prediction_type: str):
        super().__init__()
        self.register_buffer("clean", clean)
        self.alphas = make_scheduler(
            scheduler, tiny_scheduler(prediction_type).config
        ).alphas_cumprod
        self.prediction_type = prediction_type
        self.calls: list[dict[str, Tensor]] = []

    def forward(self, sample: Tensor, timestep: Tensor, **rest: Tensor) -> Any:
        self.calls.append({"sample": sample, "timestep": timestep, **rest})
        alpha = self.alphas[int(timestep)]
        noise = (sample - alpha.sqrt() * self.clean) / (1 - alpha).sqrt()
        if self.prediction_type == "epsilon":
            return Prediction(noise)
        return Prediction(alpha.sqrt() * noise - (1 - alpha).sqrt() * self.clean)


class Echo(nn.Module):
    """Predicts the mean of each frame's prompt embedding: linear, so guidance has a closed form."""

    dtype = torch.float32

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, sample: Tensor, timestep: Tensor, **rest: Tensor) -> Any:
        self.batches.append(len(sample))
        prompt = rest["encoder_hidden_states"].mean((2, 3))
        return Prediction(torch.ones_like(sample) * prompt[..., None, None, None])


def test_it_is_a_segment_model() -> None:
    assert isinstance(denoiser(), SegmentModel)


def test_noise_of_a_frame_knows_neither_its_neighbours_nor_its_batch() -> None:
    def noise(*frames: int) -> Tensor:
        return draw_noise(
            [frame_generator(3, 1, frame) for frame in frames],
            (1, len(frames), 2, 3, 3),
            torch.device("cpu"),
        )[0]

    assert torch.equal(noise(4, 9, 2), torch.cat([noise(4), noise(9), noise(2)]))


def test_noise_depends_on_seed_level_and_frame() -> None:
    drawn = {
        float(torch.randn((), generator=frame_generator(seed, level, frame)))
        for seed in (0, 1)
        for level in (0, 1)
        for frame in (0, 1, 11)
    }
    assert len(drawn) == 12
    assert float(torch.randn((), generator=frame_generator(0, 11, 1))) not in drawn


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_ddim_is_exact_at_every_step_when_the_prediction_is_true(prediction_type: str) -> None:
    clean = torch.randn(4, *LATENT_SHAPE)
    oracle = Oracle(clean, "ddim", prediction_type)
    steps = []
    model = denoiser(
        oracle,
        prediction_type=prediction_type,
        guidance_scale=1.0,
        num_inference_steps=4,
        on_step=lambda step, timestep, values: steps.append(values["latents"]),
    )
    made = model.generate([job()], torch.zeros(1, 4, *LATENT_SHAPE))
    first = [torch.randn(LATENT_SHAPE, generator=frame_generator(0, 0, f)) for f in (0, 5, 10, 15)]
    alpha = oracle.alphas[999]
    noise = (torch.stack(first) - alpha.sqrt() * clean) / (1 - alpha).sqrt()
    # After each step: the clean latents and that first noise, at the next timestep's level.
    for after, timestep in zip(steps, (749, 499, 249), strict=False):
        alpha = oracle.alphas[timestep]
        expected = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        torch.testing.assert_close(after[0], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(made[0], clean, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_ends_at_the_clean_latents_when_the_prediction_is_true(
    scheduler: str, prediction_type: str
) -> None:
    clean = torch.randn(4, *LATENT_SHAPE)
    model = denoiser(
        Oracle(clean, scheduler, prediction_type),
        prediction_type=prediction_type,
        guidance_scale=1.0,
        scheduler=scheduler,
        num_inference_steps=8,
    )
    made = model.generate([job()], torch.zeros(1, 4, *LATENT_SHAPE))
    torch.testing.assert_close(made[0], clean, atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_given_frames_enter_clean_and_come_back_bit_for_bit(scheduler: str) -> None:
    oracle = Oracle(torch.randn(4, *LATENT_SHAPE), scheduler, "v_prediction")
    model = denoiser(oracle, scheduler=scheduler, guidance_scale=2.0)
    jobs = [local_job(0), local_job(12)]
    given = latents(*jobs)
    made = model.generate(jobs, given)
    assert torch.equal(made[:, [0, 3]], given[:, [0, 3]])
    for call in oracle.calls:
        for half in range(2):
            rows = slice(2 * half, 2 * half + 2)
            assert torch.equal(call["sample"][rows][:, [0, 3]], given[:, [0, 3]])
            assert torch.equal(call["given_latents"][rows], given)
        assert call["conditioning_mask"].tolist() == [[1, 0, 0, 1]] * 4


def test_what_stands_at_new_frames_of_the_given_latents_does_not_matter() -> None:
    given = latents(local_job())
    noise = torch.randn_like(given)
    noise[:, [0, 3]] = given[:, [0, 3]]
    assert torch.equal(
        denoiser().generate([local_job()], given), denoiser().generate([local_job()], noise)
    )


def test_frame_times_count_from_the_segments_start() -> None:
    """So that fp32 keeps a frame's length in a film of days."""
    oracle = Oracle(torch.zeros(4, *LATENT_SHAPE), "ddim", "v_prediction")
    late = local_job(24 * 3600 * 365 * 8)
    denoiser(oracle).generate([late], latents(late))
    assert oracle.calls[0]["frame_times"][0].tolist() == [0, 0.125, 0.25, 0.375]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_segment_does_not_depend_on_its_batch_or_the_order(scheduler: str) -> None:
    """Within 1e-4 in fp32: kernels round by batch shape."""
    model = denoiser(scheduler=scheduler)
    jobs = [local_job(0), local_job(12, prompts=("a cat",) * 4), local_job(3)]
    given = latents(*jobs)
    together = model.generate(jobs, given)
    assert together.isfinite().all()
    backwards = model.generate(jobs[::-1], given.flip(0)).flip(0)
    alone = torch.cat([model.generate([jobs[i]], given[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(backwards, together, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(alone, together, atol=1e-4, rtol=1e-4)
    assert torch.equal(model.generate(jobs, given), together)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_another_seed_gives_another_segment(scheduler: str) -> None:
    model = denoiser(scheduler=scheduler)
    given = latents(local_job())
    made = model.generate([local_job(), local_job(seed=1)], given.repeat(2, 1, 1, 1, 1))
    assert (made[0, 1:3] - made[1, 1:3]).abs().max() > 0.01


def test_a_segment_of_given_frames_only_runs_no_network() -> None:
    echo = Echo()
    pinned = job(given=(True,) * 4)
    given = latents(pinned)
    assert torch.equal(denoiser(echo).generate([pinned], given), given)
    assert not echo.batches


def test_guidance_is_one_call_of_both_halves_and_scale_one_skips_the_unconditional() -> None:
    echo = Echo()
    zeros = torch.zeros(2, 4, *LATENT_SHAPE)
    denoiser(echo, guidance_scale=1.0).generate([job(), job()], zeros)
    assert echo.batches == [2, 2, 2]
    echo.batches.clear()
    denoiser(echo, guidance_scale=3.0).generate([job(), job()], zeros)
    assert echo.batches == [4, 4, 4]


def test_guidance_leads_away_from_the_negative_prompt() -> None:
    """With a network that is linear in the prompt: v = negative + scale * (prompt - negative)."""
    encode = prompt_encoder()
    cat, dog = (float(encode([text]).mean()) for text in ("a cat", "a dog"))
    model = denoiser(Echo(), num_inference_steps=1, guidance_scale=3.0, negative_prompt="a cat")
    made = model.generate([job()], torch.zeros(1, 4, *LATENT_SHAPE))
    # One step from pure noise (alpha 0) to clean: the velocity is minus the clean latents.
    expected = torch.full_like(made, -(cat + 3 * (dog - cat)))
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-4)


def test_rescaled_guidance_has_the_contrast_of_the_conditional_prediction() -> None:
    guided, conditional = 5 * torch.randn(2, 3, 4, 8, 8), torch.randn(2, 3, 4, 8, 8)
    rescaled = rescale_guidance(guided, conditional, 1.0)
    torch.testing.assert_close(rescaled.std((2, 3, 4)), conditional.std((2, 3, 4)))
    assert torch.equal(rescale_guidance(guided, conditional, 0.0), guided)


def test_guidance_rescale_and_negative_prompt_change_the_segment() -> None:
    given = latents(local_job())
    plain = denoiser().generate([local_job()], given)
    for changed in (denoiser(guidance_rescale=0.7), denoiser(negative_prompt="night")):
        assert not torch.equal(changed.generate([local_job()], given), plain)


def test_each_frame_has_its_own_prompt() -> None:
    """Without neighbours in sight, a frame's prompt changes that frame alone."""
    changed = job(prompts=("a dog", "a dog", "a cat", "a dog"))
    zeros = torch.zeros(1, 4, *LATENT_SHAPE)
    still = denoiser(tiny_unet(temporal=False))
    difference = still.generate([changed], zeros) - still.generate([job()], zeros)
    assert difference.abs().amax((0, 2, 3, 4)).gt(1e-4).tolist() == [False, False, True, False]
    moving = denoiser()
    difference = moving.generate([changed], zeros) - moving.generate([job()], zeros)
    assert difference.abs().amax((0, 2, 3, 4)).gt(0).all()


def test_level_zero_and_deeper_levels_have_their_own_network_and_settings() -> None:
    echoes = Echo(), Echo()
    model = denoiser(*echoes, num_inference_steps=4, local_num_inference_steps=2, guidance_stop=0.3)
    model.generate([job()], latents(job()))
    assert [echo.batches for echo in echoes] == [[2, 2, 1, 1], []]  # two where it is guided
    model.generate([local_job()], latents(local_job()))
    assert [echo.batches for echo in echoes] == [[2, 2, 1, 1], [2, 2]]


@pytest.mark.parametrize(("own", "guidance"), [(1.0, 2.5), (4.0, 4.0)])
def test_where_the_prompt_changes_a_segment_is_guided_as_keyframes_are(own, guidance) -> None:
    model = denoiser(num_inference_steps=4, guidance_scale=2.5, local_guidance_scale=own)
    changes = ("a dog", "a dog", "a cat", "a cat")
    assert model.settings(local_job()).guidance_scale == own
    assert model.settings(local_job(prompts=changes)) == (4, guidance, 1.0)
    assert model.settings(job(prompts=changes)).guidance_scale == 2.5


def test_a_scene_that_no_given_frame_shows_gets_the_keyframes_effort() -> None:
    local = Echo()
    model = denoiser(Echo(), local, num_inference_steps=4, local_num_inference_steps=2)
    begins = local_job(prompts=("a dog", "a cat", "a dog", "a dog"))
    changes = local_job(prompts=("a dog", "a dog", "a cat", "a cat"))
    assert model.settings(begins).num_inference_steps == 4
    assert model.settings(changes).num_inference_steps == 2
    jobs = [begins, changes, begins]
    given = latents(*jobs)
    made = model.generate(jobs, given)
    assert local.batches == [4] * 4 + [2] * 2  # two segments of four steps, one of two; guided
    assert torch.equal(made[1], model.generate([changes], given[1:2])[0])


def test_a_callback_sees_every_step_and_may_change_the_latents() -> None:
    seen = []

    def zero(step: int, timestep: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append((step, int(timestep), tuple(values["latents"].shape)))
        return {"latents": torch.zeros_like(values["latents"])}

    made = denoiser(on_step=zero).generate([job()], torch.zeros(1, 4, *LATENT_SHAPE))
    assert seen == [(step, t, (1, 4, *LATENT_SHAPE)) for step, t in enumerate((999, 666, 332))]
    assert not made.any()


def test_bf16_products_stay_near_fp32_and_keep_given_frames() -> None:
    given = latents(local_job())
    exact = denoiser().generate([local_job()], given)
    fast = denoiser(dtype=torch.bfloat16).generate([local_job()], given)
    assert fast.dtype == torch.float32
    assert torch.equal(fast[:, [0, 3]], given[:, [0, 3]])
    assert 0 < (fast - exact).abs().max() < 0.1


def test_sampling_leaves_the_callers_random_numbers_and_scheduler_alone() -> None:
    scheduler = tiny_scheduler()
    before = torch.get_rng_state(), dict(vars(scheduler))
    model = SegmentDenoiser(
        Echo(), Echo(), scheduler, SamplingConfig(), prompt_encoder(), latent_shape=LATENT_SHAPE
    )
    torch.set_rng_state(before[0])
    model.generate([job()], torch.zeros(1, 4, *LATENT_SHAPE))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert scheduler.num_inference_steps == before[1]["num_inference_steps"]


def test_schedulers_follow_the_training_and_never_clip_latents() -> None:
    config = DDPMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, beta_end=0.03
    ).config
    for name, scheduler_class in SCHEDULERS.items():
        scheduler = make_scheduler(name, config)
        assert type(scheduler) is scheduler_class
        assert scheduler.config.prediction_type == "v_prediction"
        assert scheduler.config.beta_end == 0.03
        assert not scheduler.config.get("clip_sample", False)
        scheduler.set_timesteps(5)
        assert int(scheduler.timesteps[0]) == 999


def test_impossible_schedulers_are_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^`scheduler` must be one of ddim, .*, got 'heun'\.$"):
        make_scheduler("heun", {})
    with pytest.raises(ValueError, match="'epsilon' and `rescale_betas_zero_snr`"):
        make_scheduler("ddim", DDPMScheduler(rescale_betas_zero_snr=True).config)


def test_step_counts_that_a_scheduler_cannot_do_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="num_inference_steps"):
        denoiser(scheduler="lcm", local_num_inference_steps=51)
