"""Blocks of the diffusion transformer: DiT's, with time, prompts and given frames.

Knows tokens of frames, not noise levels, seconds or prompts' words.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from nuwaxl.models.attention import Cache, attend, once

Tokens = Float[Tensor, "batch frames cells channels"]


@dataclass(frozen=True)
class TokenInputs:
    """What every block of one forward pass reads beside its tokens."""

    temb: Float[Tensor, "batch frames channels"]
    """Embedding of noise level, prompt, frame time and mask, through its activation."""
    encoder_hidden_states: Float[Tensor, "batch_frames tokens dim"]
    frame_embedding: Float[Tensor, "batch frames channels"] | None
    condition: Float[Tensor, "batch frames cells condition"] | None
    """Features of the given latents; None without injection."""
    cache: Cache | None = None
    """Of what depends on neither tokens nor `temb`; see `MaskTransformer3D.forward`."""


class FusedAttention(nn.Module):
    """Self-attention over the cells of a frame, or of a cell over the frames.

    Args:
        channels: width of the tokens.
        head_dim: channels per head; divides `channels`.
        over_frames: whether frames look at each other, not cells.
    """

    def __init__(self, channels: int, *, head_dim: int, over_frames: bool):
        super().__init__()
        self.head_dim = head_dim
        self.over_frames = over_frames
        # One product for queries, keys and values: a CPU has few small operations to start.
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.out_proj = nn.Linear(channels, channels)

    def forward(self, hidden_states: Tokens) -> Tokens:
        """Return what the tokens read from each other."""
        pattern = "b n h f d" if self.over_frames else "b f h n d"
        qkv = self.to_qkv(hidden_states).unflatten(-1, (3, -1, self.head_dim))
        query, key, value = rearrange(qkv, f"b f n k h d -> k {pattern}").flatten(1, 2).unbind(0)
        out = attend(query, key, value).unflatten(0, (len(hidden_states), -1))
        return self.out_proj(rearrange(out, f"{pattern} -> b f n (h d)"))


class PromptAttention(nn.Module):
    """Cross-attention of a frame's cells to the frame's own prompt, nothing at the start.

    Args:
        channels: width of the tokens.
        head_dim: channels per head; divides `channels`.
        cross_attention_dim: width of the prompt embeddings.
    """

    def __init__(self, channels: int, *, head_dim: int, cross_attention_dim: int):
        super().__init__()
        self.head_dim = head_dim
        self.to_q = nn.Linear(channels, channels)
        self.to_kv = nn.Linear(cross_attention_dim, 2 * channels)
        self.out_proj = nn.Linear(channels, channels)

    def forward(
        self,
        hidden_states: Tokens,
        encoder_hidden_states: Float[Tensor, "batch_frames tokens dim"],
        cache: Cache | None,
    ) -> Tokens:
        """Return what the tokens read from their prompts.

        Args:
            hidden_states: tokens that ask.
            encoder_hidden_states: prompt embeddings, frame by frame.
            cache: holds their keys and values from one call to the next.
        """

        def keys_and_values() -> tuple[Tensor, ...]:
            kv = self.to_kv(encoder_hidden_states).unflatten(-1, (2, -1, self.head_dim))
            return rearrange(kv, "b n k h d -> k b h n d").unbind(0)

        query = self.to_q(hidden_states)
        query = rearrange(query, "b f n (h d) -> (b f) h n d", d=self.head_dim)
        out = attend(query, *once(cache, self, keys_and_values))
        return self.out_proj(rearrange(out, "(b f) h n d -> b f n (h d)", f=hidden_states.shape[1]))


class MaskTransformerBlock(nn.Module):
    """Injection, spatial attention, prompt attention, temporal attention, perceptron.

    That is the order of the U-Net's layers (paper section 3.2). Noise level, prompt, frame time
    and mask scale and shift the tokens before each part and gate what it adds (adaLN-zero, Peebles
    and Xie 2023): every gate starts at zero, so a new block changes nothing.

    Args:
        channels: width of the tokens.
        head_dim: channels per head; divides `channels`.
        mlp_channels: hidden width of the perceptron.
        cross_attention_dim: width of the prompt embeddings.
        condition_channels: width of the given frames' features; None builds the block of an image
            network, without injection and without temporal attention.
    """

    def __init__(
        self,
        channels: int,
        *,
        head_dim: int,
        mlp_channels: int,
        cross_attention_dim: int,
        condition_channels: int | None,
    ):
        super().__init__()
        self.gradient_checkpointing = False
        self.temporal = condition_channels is not None
        self.norm = nn.LayerNorm(channels, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(channels, 6 * channels)
        self.spatial_attention = FusedAttention(channels, head_dim=head_dim, over_frames=False)
        self.prompt_attention = PromptAttention(
            channels, head_dim=head_dim, cross_attention_dim=cross_attention_dim
        )
        self.ff_in = nn.Linear(channels, mlp_channels)
        self.ff_out = nn.Linear(mlp_channels, channels)
        if condition_channels is not None:
            self.injection = nn.Linear(condition_channels, 2 * channels)
            self.temporal_modulation = nn.Linear(channels, 3 * channels)
            self.time_proj = nn.Linear(channels, channels)
            self.temporal_attention = FusedAttention(channels, head_dim=head_dim, over_frames=True)

    def forward(self, hidden_states: Tokens, inputs: TokenInputs) -> Tokens:
        """Return the tokens, shape unchanged."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(  # pyright: ignore[reportCallIssue]
                self._forward, hidden_states, inputs
            )
        return self._forward(hidden_states, inputs)

    def _forward(self, hidden_states: Tensor, inputs: TokenInputs) -> Tensor:
        if inputs.condition is not None:
            hidden_states = self._inject(hidden_states, inputs.condition, inputs.cache)
        modulation = self.modulation(inputs.temb).unsqueeze(2).chunk(6, dim=-1)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation
        tokens = self._modulated(hidden_states, shift, scale)
        hidden_states = torch.addcmul(hidden_states, gate, self.spatial_attention(tokens))
        hidden_states = hidden_states + self.prompt_attention(
            self.norm(hidden_states), inputs.encoder_hidden_states, inputs.cache
        )
        if self.temporal:
            assert inputs.frame_embedding is not None
            modulation = self.temporal_modulation(inputs.temb)
            shift, scale, gate = modulation.unsqueeze(2).chunk(3, dim=-1)
            shift = shift + self.time_proj(inputs.frame_embedding).unsqueeze(2)
            tokens = self._modulated(hidden_states, shift, scale)
            hidden_states = torch.addcmul(hidden_states, gate, self.temporal_attention(tokens))
        tokens = self.ff_in(self._modulated(hidden_states, mlp_shift, mlp_scale))
        tokens = self.ff_out(functional.gelu(tokens, approximate="tanh"))
        return torch.addcmul(hidden_states, mlp_gate, tokens)

    def _modulated(self, hidden_states: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return torch.addcmul(shift, self.norm(hidden_states), 1 + scale)

    def _inject(self, hidden_states: Tensor, condition: Tensor, cache: Cache | None) -> Tensor:
        """`h = w_c * h + b_c + h` (paper eq. 10); the mask's part (eq. 11) is in `modulation`."""
        weight, bias = once(cache, self, lambda: self.injection(condition).chunk(2, dim=-1))
        return torch.addcmul(hidden_states + bias, weight, hidden_states)
