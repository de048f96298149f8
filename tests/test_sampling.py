import dataclasses
import json

import pytest

from nuwaxl.denoising.sampling import RoleSettings, SamplingConfig


def test_levels_share_their_settings_unless_told_otherwise():
    config = SamplingConfig(num_inference_steps=7, guidance_scale=4.0)
    assert config.for_level(0) == RoleSettings(7, 4.0)
    assert config.for_level(1) == config.for_level(5) == RoleSettings(4, 4.0, 0.4)
    assert SamplingConfig(num_inference_steps=1).for_level(1) == RoleSettings(1, 3.0, 0.4)


def test_local_settings_hold_below_level_0():
    config = SamplingConfig(7, local_num_inference_steps=3, local_guidance_scale=0.0)
    assert config.for_level(0) == RoleSettings(7, 3.0)
    assert config.for_level(1) == config.for_level(2) == RoleSettings(3, 0.0, 0.4)


@pytest.mark.parametrize(
    ("steps", "scale", "stop", "guided"),
    [(5, 3.0, 0.2, 1), (5, 3.0, 0.21, 2), (10, 3.0, 0.3, 3), (4, 3.0, 0, 0), (4, 1.0, 1, 0)],
)
def test_guided_steps_are_a_share_of_all_and_count_twice(steps, scale, stop, guided):
    settings = RoleSettings(steps, scale, stop)
    assert (settings.guided_steps, settings.passes) == (guided, steps + guided)


def test_every_setting_is_in_the_fingerprint():
    changed = SamplingConfig(7, 2.0, 0.5, "blurry", "ddpm", 3, 1.5, 0.5, 0.7)
    for field in dataclasses.fields(SamplingConfig):
        other = SamplingConfig(**{field.name: getattr(changed, field.name)})
        assert other.fingerprint() != SamplingConfig().fingerprint(), field.name


def test_the_same_sampling_has_one_fingerprint():
    said = SamplingConfig(
        guidance_scale=3,
        local_num_inference_steps=5,
        local_guidance_scale=3,
        guidance_rescale=0,
        guidance_stop=1,
        local_guidance_stop=0.4,
    )
    assert said.fingerprint() == SamplingConfig().fingerprint()
    assert json.loads(said.fingerprint())["local_num_inference_steps"] == 5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_inference_steps", 0),
        ("num_inference_steps", True),
        ("local_num_inference_steps", 1001),
        ("guidance_scale", -1.0),
        ("guidance_scale", float("nan")),
        ("local_guidance_scale", float("inf")),
        ("guidance_rescale", 1.5),
        ("guidance_stop", -0.5),
        ("local_guidance_stop", True),
        ("scheduler", "heun"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(name, value):
    with pytest.raises(ValueError, match=rf"^`{name}` must be [^\n]*{value!r}"):
        SamplingConfig(**{name: value})
