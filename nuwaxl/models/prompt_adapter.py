"""From a text encoder's hidden states to the few prompt tokens that a U-Net attends to.

Knows hidden states and their padding, not words.
"""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from nuwaxl.models.attention import attend


class PromptAdapter(ModelMixin, ConfigMixin):
    """Learned queries that read a prompt of any length into a fixed number of tokens.

    The text encoder stays frozen and may be any; this small network is trained with the U-Net.

    Args:
        text_dim: width of the text encoder's hidden states.
        dim: width of the prompt tokens, the U-Net's `cross_attention_dim`.
        num_tokens: prompt tokens.
        num_layers: layers of cross-attention, self-attention and MLP.
        heads: attention heads; divides `dim`.
        mlp_dim: hidden width of the MLPs.
    """

    @register_to_config
    def __init__(
        self,
        text_dim: int = 384,
        dim: int = 256,
        num_tokens: int = 8,
        num_layers: int = 2,
        heads: int = 4,
        mlp_dim: int = 384,
    ):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(num_tokens, dim))
        self.text_proj = nn.Linear(text_dim, dim)
        self.text_norm = nn.LayerNorm(dim)
        self.layers = nn.ModuleList(_AdapterLayer(dim, heads, mlp_dim) for _ in range(num_layers))
        # Unit scale without weights: the U-Net's keys and values see the same scale all along.
        self.norm_out = nn.LayerNorm(dim, elementwise_affine=False)

    def forward(
        self,
        hidden_states: Float[Tensor, "batch text text_dim"],
        attention_mask: Int[Tensor, "batch text"] | Bool[Tensor, "batch text"] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """Return the prompt tokens, each of unit scale.

        Args:
            hidden_states: the text encoder's last hidden states.
            attention_mask: 1 for words, 0 for padding; None: no padding.
        """
        text = self.text_norm(self.text_proj(hidden_states))
        mask = None if attention_mask is None else attention_mask[:, None, None, :].bool()
        tokens = self.queries.expand(len(text), -1, -1)
        for layer in self.layers:
            tokens = layer(tokens, text, mask)
        return self.norm_out(tokens)


class _AdapterLayer(nn.Module):
    def __init__(self, dim: int, heads: int, mlp_dim: int):
        super().__init__()
        self.cross_norm = nn.LayerNorm(dim)
        self.cross_attention = _Attention(dim, heads)
        self.self_norm = nn.LayerNorm(dim)
        self.self_attention = _Attention(dim, heads)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp_in = nn.Linear(dim, mlp_dim)
        self.mlp_out = nn.Linear(mlp_dim, dim)

    def forward(self, tokens: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        tokens = tokens + self.cross_attention(self.cross_norm(tokens), text, mask)
        normed = self.self_norm(tokens)
        tokens = tokens + self.self_attention(normed, normed, None)
        return tokens + self.mlp_out(functional.gelu(self.mlp_in(self.mlp_norm(tokens))))


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim)
        self.to_kv = nn.Linear(dim, 2 * dim)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        query = self.to_q(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.to_kv(source).unflatten(-1, (2, self.heads, -1)).unbind(2)
        out = attend(query, key.transpose(1, 2), value.transpose(1, 2), mask)
        return self.to_out(out.transpose(1, 2).flatten(2))
