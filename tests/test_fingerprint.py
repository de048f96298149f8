import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.configuration_utils import FrozenDict
from tiny import tiny_pipeline, tiny_unet

from nuwaxl.pipelines.long_video import LongVideoPipeline
from nuwaxl.tensors.fingerprint import module_fingerprint, weights_hash


def lora_unet() -> Any:
    from peft import LoraConfig

    unet = tiny_unet()
    config = LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    unet.add_adapter(config)
    return unet


def test_equal_weights_have_one_fingerprint_and_others_another() -> None:
    assert module_fingerprint(tiny_unet()) == module_fingerprint(tiny_unet())
    assert module_fingerprint(tiny_unet()) != module_fingerprint(tiny_unet(seed=1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_casting_a_network_keeps_its_fingerprint(dtype: torch.dtype) -> None:
    unet: Any = tiny_unet()
    before = module_fingerprint(unet)
    assert module_fingerprint(unet.to(dtype)) == before
    assert module_fingerprint(unet.to(torch.float32)) == before


def test_half_precision_weights_count_as_the_fp32_values_that_they_are() -> None:
    half = tiny_unet().half()
    assert module_fingerprint(copy.deepcopy(half).float()) == module_fingerprint(half)


@pytest.mark.parametrize(
    "change",
    [
        lambda weight: weight.add_(1e-3),
        lambda weight: weight.data.mul_(1.001),  # as fusing a LoRA does, unseen by autograd
        lambda weight: weight.data.copy_(torch.randn_like(weight)),
    ],
)
def test_a_change_in_place_changes_the_fingerprint(change: Callable) -> None:
    unet = tiny_unet()
    before = module_fingerprint(unet)
    with torch.no_grad():
        change(unet.conv_in.weight)
    assert module_fingerprint(unet) != before


def test_settings_count_where_weights_are_the_same() -> None:
    one, two = tiny_unet(attention_head_dim=4), tiny_unet(attention_head_dim=8)
    two.load_state_dict(one.state_dict())
    assert weights_hash(one) == weights_hash(two)
    assert module_fingerprint(one) != module_fingerprint(two)


def test_a_setting_that_is_the_default_does_not_count() -> None:
    unet = tiny_unet()
    before = module_fingerprint(unet)
    # As a network saved before there was such a setting.
    unet._internal_dict = FrozenDict({k: v for k, v in unet.config.items() if k != "temporal"})
    assert module_fingerprint(unet) == before


def test_a_lora_counts_with_its_scale_and_goes_without_a_trace() -> None:
    plain = module_fingerprint(tiny_unet())
    unet = lora_unet()
    seen = {plain, module_fingerprint(unet)}
    unet.set_adapters("default", 0.5)
    seen.add(module_fingerprint(unet))
    assert len(seen) == 3
    unet.delete_adapters("default")
    assert module_fingerprint(unet) == plain


def test_a_fused_lora_counts() -> None:
    unet = lora_unet()
    unet.fuse_lora()
    unet.unload_lora()
    assert module_fingerprint(unet) != module_fingerprint(tiny_unet())


def test_a_pipeline_keeps_its_fingerprint_in_every_dtype_and_on_disk(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    before = pipeline.fingerprint
    pipeline.save_pretrained(tmp_path)
    assert LongVideoPipeline.from_pretrained(tmp_path).fingerprint == before
    half = LongVideoPipeline.from_pretrained(tmp_path, dtype=torch.float16)
    assert half.global_unet.dtype == torch.float16
    assert half.fingerprint == before
    unasked = tiny_pipeline().to(torch.bfloat16)
    assert unasked.fingerprint == before


def test_the_noise_levels_of_the_training_count() -> None:
    pipeline = tiny_pipeline()
    before = pipeline.fingerprint
    pipeline.scheduler = type(pipeline.scheduler).from_config(
        pipeline.scheduler.config, beta_end=0.03
    )
    assert pipeline.fingerprint != before
