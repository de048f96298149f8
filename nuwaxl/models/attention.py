"""Attention that is fast at the sizes of small video U-Nets, on a CPU as on an accelerator.

Knows queries, keys and values, not what the tokens stand for.
"""

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.controlnets.controlnet import zero_module
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
    scores = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(-1, -2))
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask
    return torch.matmul(scores.softmax(dim=-1), value)


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
    ) -> Float[Tensor, "batch queries out_channels"]:
        """Project, attend and project back.

        Args:
            attn: the module that owns the projections.
            hidden_states: tokens that ask.
            encoder_hidden_states: tokens that are asked; `hidden_states` themselves if None.
            attention_mask: bias over keys, as diffusers' blocks hand it over.
        """
        assert attn.to_k is not None
        assert attn.to_v is not None
        assert attn.to_out is not None
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        batch, num_keys, _ = source.shape
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, num_keys, batch)
            attention_mask = attention_mask.view(batch, attn.heads, -1, num_keys)
        query, key, value = (
            tokens.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for tokens in (attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source))
        )
        out = attend(query, key, value, attention_mask).transpose(1, 2).flatten(2)
        # to_out[1] is a dropout of probability zero in every model here.
        return attn.to_out[0](out)


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
