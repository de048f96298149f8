"""What of Stable Diffusion's U-Nets the one here is built from.

Knows configurations, not weights.
"""

from typing import Any

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from nuwaxl.models.blocks import RESNET_EPS

# What the residual blocks and embeddings here take for granted of a Stable Diffusion U-Net.
_STABLE_DIFFUSION = {
    "act_fn": "silu",
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "norm_eps": RESNET_EPS,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "transformer_layers_per_block": 1,
    "only_cross_attention": False,
    "dual_cross_attention": False,
    "resnet_time_scale_shift": "default",
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "time_cond_proj_dim": None,
    "class_embed_type": None,
    "num_class_embeds": None,
    "addition_embed_type": None,
    "encoder_hid_dim_type": None,
    "encoder_hid_dim": None,
    "attention_type": "default",
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "dropout": 0.0,
}


def image_settings(unet2d: UNet2DConditionModel) -> dict[str, Any]:
    """The arguments of `MaskUNet3D` that rebuild the spatial part of `unet2d`; refuses others."""
    config: dict[str, Any] = dict(unet2d.config)
    for name, wanted in _STABLE_DIFFUSION.items():
        if config.get(name, wanted) != wanted:
            raise ValueError(
                f"`unet2d` must be a Stable Diffusion 1.x or 2.x U-Net with `{name}={wanted!r}`, "
                f"got {config[name]!r}."
            )
    attends = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
    mirrored = [name.replace("Up", "Down") for name in reversed(config["up_block_types"])]
    if mirrored != list(config["down_block_types"]) or not set(mirrored) <= set(attends):
        raise ValueError(
            "`unet2d` must have plain or cross-attention blocks, the same on the way down and up, "
            f"got {config['down_block_types']} and {config['up_block_types']}."
        )
    widths = config["block_out_channels"]
    # Stable Diffusion's configs call the number of heads `attention_head_dim`.
    num_heads = config["attention_head_dim"]
    if isinstance(num_heads, int):
        num_heads = [num_heads] * len(widths)
    return {
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "block_out_channels": list(widths),
        "layers_per_block": config["layers_per_block"],
        "attention_levels": [attends[name] for name in config["down_block_types"]],
        "cross_attention_dim": config["cross_attention_dim"],
        "attention_head_dim": [w // n for w, n in zip(widths, num_heads, strict=True)],
        "norm_num_groups": config["norm_num_groups"],
        "use_linear_projection": config["use_linear_projection"],
    }
