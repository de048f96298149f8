"""Attention that is fast at the sizes of small video U-Nets, on a CPU as on an accelerator.

Knows queries, keys and values, not what the tokens stand for.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.controlnets.controlnet import zero_module
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

# Longest key sequence for which two batched matrix products beat torch's CPU flash attention in
# bfloat16. Measured with torch 2.13 on one AVX-512-BF16 core, 4 heads of 32 channels, 8192 to 1536
# queries in all; milliseconds forward / forward + backward, matmul against flash attention:
#   16 keys 2.8 / 12 : 5.0 / 102     256 keys 8.0 / 11 : 7.7 / 30    1024 keys 7.0 / 31 : 13 / 36
#   64 keys 3.0 / 14 : 6.6 / 60      512 keys 3.6 / 15 : 7.2 / 22    1536 keys  17 / 47 : 16 / 39
# In float32 flash attention is as fast or faster at every length (16 keys 14 : 11, 1024 keys
# 50 : 45 forward + backward), so it is left alone there.
MATMUL_MAX_KEYS = 1024


Cache = dict[Any, Any]
"""What a network has computed from everything but noise: see `MaskUNet3D.forward`."""

ResultT = TypeVar("ResultT")


def once(cache: Cache | None, key: Any, compute: Callable[[], ResultT]) -> ResultT:
    """The result of `compute`, from `cache` when it is there; without a cache, computed each time.

    Args:
        cache: is filled.
        key: of the result.
        compute: takes no arguments.
    """
    if cache is None:
        return compute()
    if key not in cache:
        cache[key] = compute()
    return cache[key]


def autocast_once(tokens: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Tokens in the precision of autocast, where it is on: cast once, not in every attention."""
    kind = tokens.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return tokens.to(torch.get_autocast_dtype(kind))
    return tokens


def takes_matmul_path(device: torch.device, dtype: torch.dtype, num_keys: int) -> bool:
    """Whether two matrix products beat the fused kernel for keys of this kind and number."""
    return device.type == "cpu" and dtype == torch.bfloat16 and num_keys <= MATMUL_MAX_KEYS


def attend(
    query: Float[Tensor, "batch heads queries channels"],
    key: Float[Tensor, "batch heads keys channels"],
    value: Float[Tensor, "batch heads keys channels"],
    mask: Float[Tensor, "..."] | Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "batch heads queries channels"]:
    """Return `softmax(query key^T / sqrt(channels) + mask) value` by the faster of two ways.

    Args:
        query: what asks.
        key: what is compared with.
        value: what is averaged.
        mask: added to the scores, or boolean with True where a key may be seen; broadcasts to
            (batch, heads, queries, keys).
    """
    if not takes_matmul_path(query.device, query.dtype, key.shape[-2]):
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    batch, heads, num_queries, channels = query.shape
    query, key, value = (tokens.flatten(0, 1) for tokens in (query, key, value))
    # The product scales its sums itself: no pass over the queries, no rounding in between.
    nothing = query.new_empty(())
    scores = torch.baddbmm(nothing, query, key.transpose(1, 2), beta=0, alpha=channels**-0.5)
    if mask is not None:
        scores = scores.unflatten(0, (batch, heads))
        if mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        else:
            scores = scores + mask
        scores = scores.flatten(0, 1)
    return torch.bmm(scores.softmax(dim=-1), value).view(batch, heads, num_queries, -1)


class FastAttnProcessor:
    """Drop-in for diffusers' `AttnProcessor2_0` that computes attention with `attend`.

    Serves plain self- and cross-attention over (batch, tokens, channels), which is all that
    Stable Diffusion's transformer blocks use; norms of queries and keys, added projections and
    image-shaped inputs are not supported and never configured here.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "batch queries channels"],
        encoder_hidden_states: Float[Tensor, "batch keys encoder_channels"] | None = None,
        attention_mask: Float[Tensor, "batch_or_heads one keys"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch queries out_channels"]:
        """Project, attend and project back.

        Args:
            attn: the module that owns the projections.
            hidden_states: tokens that ask.
            encoder_hidden_states: tokens that are asked; `hidden_states` themselves if None.
            attention_mask: bias over keys, as diffusers' blocks hand it over.
            cache: holds keys and values of `encoder_hidden_states` from one call to the next.
        """
        assert attn.to_k is not None
        assert attn.to_v is not None
        assert attn.to_out is not None
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        batch, num_keys, _ = source.shape
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, num_keys, batch)
            attention_mask = attention_mask.view(batch, attn.heads, -1, num_keys)

        def keys_and_values() -> tuple[Tensor, ...]:
            assert attn.to_k is not None
            assert attn.to_v is not None
            return tuple(
                tokens.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
                for tokens in (attn.to_k(source), attn.to_v(source))
            )

        query = attn.to_q(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        # Keys of the tokens themselves are new in every call.
        key, value = once(None if encoder_hidden_states is None else cache, attn, keys_and_values)
        out = attend(query, key, value, attention_mask).transpose(1, 2).flatten(2)
        # to_out[1] is a dropout of probability zero in every model here.
        return attn.to_out[0](out)


class SpatialTransformer(Transformer2DModel):
    """diffusers' transformer over the cells of a frame, its projections made as matrix products.

    In bf16 on a CPU a 1x1 convolution over few cells takes twice as long as the product that it
    is, because the features are laid out anew before and after it.
    """

    def _operate_on_continuous_inputs(self, hidden_states: Tensor) -> tuple[Tensor, int]:
        if not _is_product(self.proj_in, hidden_states):
            return super()._operate_on_continuous_inputs(hidden_states)
        # Contiguous: torch multiplies a transposed batch matrix by matrix.
        tokens = self.norm(hidden_states).flatten(2).transpose(1, 2).contiguous()
        weight = self.proj_in.weight.flatten(1)
        return functional.linear(tokens, weight, self.proj_in.bias), len(weight)

    def _get_output_for_continuous_inputs(
        self,
        hidden_states: Tensor,
        residual: Tensor,
        batch_size: int,
        height: int,
        width: int,
        inner_dim: int,
    ) -> Tensor:
        if not _is_product(self.proj_out, residual):
            return super()._get_output_for_continuous_inputs(
                hidden_states, residual, batch_size, height, width, inner_dim
            )
        weight = self.proj_out.weight.flatten(1)
        tokens = functional.linear(hidden_states, weight, self.proj_out.bias)
        return residual + tokens.transpose(1, 2).contiguous().unflatten(2, (height, width))


def _is_product(layer: nn.Module, hidden_states: Tensor) -> bool:
    """Whether `layer` is a 1x1 convolution (and no adapter around one) to be made as a product."""
    return (
        type(layer) is nn.Conv2d
        and hidden_states.device.type == "cpu"
        and hidden_states.dtype == torch.bfloat16
    )


class TemporalAttention(nn.Module):
    """Self-attention of each latent cell over the frames of its segment (paper section 3.2).

    Each frame's time enters as a learned projection of its frame embedding, so nothing depends on
    how many frames there are. The output projection starts at zero: the layer starts as identity.

    Args:
        channels: width of the features.
        head_dim: channels per head; divides `channels`.
        frame_embed_dim: width of the frame embedding.
    """

    def __init__(self, channels: int, *, head_dim: int, frame_embed_dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.time_proj = nn.Linear(frame_embed_dim, channels)
        self.attn = Attention(
            query_dim=channels,
            heads=channels // head_dim,
            dim_head=head_dim,
            processor=FastAttnProcessor(),  # pyright: ignore[reportArgumentType]
        )
        assert self.attn.to_out is not None
        zero_module(self.attn.to_out[0])

    def forward(
        self,
        hidden_states: Float[Tensor, "batch_frames channels height width"],
        frame_embedding: Float[Tensor, "batch frames embed"],
    ) -> Float[Tensor, "batch_frames channels height width"]:
        """Return the features with what the other frames know added.

        Args:
            hidden_states: features with frames folded into the batch, frames innermost.
            frame_embedding: embedding of each frame's time; its shape says how to unfold.
        """
        batch, frames, _ = frame_embedding.shape
        channels, height, width = hidden_states.shape[1:]
        tokens = hidden_states.reshape(batch, frames, channels, height * width).permute(0, 3, 1, 2)
        tokens = self.norm(tokens) + self.time_proj(frame_embedding).unsqueeze(1)
        out = self.attn(tokens.flatten(0, 1)).view(batch, height * width, frames, channels)
        return hidden_states + out.permute(0, 2, 3, 1).reshape(hidden_states.shape)
