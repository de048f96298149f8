"""Prompts into what the networks attend to.

Knows tokenizer, text encoder and prompt adapter, not when a prompt is in force.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

logger = logging.getLogger(__name__)

_MAX_TOKENS = 77
"""Longest prompt in tokens when the tokenizer allows more: CLIP's length, a sentence or three."""


def text_hidden_states(
    prompts: Sequence[str],
    tokenizer: Any,
    text_encoder: nn.Module,
    *,
    device: torch.device | str | None = None,
    pad_to_longest: bool = True,
) -> tuple[Float[Tensor, "prompts tokens dim"], Int[Tensor, "prompts tokens"]]:
    """The text encoder's last hidden states, and which tokens are text (1) or padding (0).

    Args:
        prompts: one or more prompts.
        tokenizer: of the transformers library.
        text_encoder: its encoder; CLIP and BERT kinds alike.
        device: where the encoder runs; None: where its weights are.
        pad_to_longest: pad to the longest prompt, else to the tokenizer's full length.
    """
    max_length = min(tokenizer.model_max_length, _MAX_TOKENS)
    tokens = tokenizer(
        list(prompts),
        padding="longest" if pad_to_longest else "max_length",
        truncation=True,
        max_length=max_length,
        return_tensors="pt",
    )
    device = device if device is not None else next(text_encoder.parameters()).device
    attention_mask = tokens["attention_mask"].to(device)
    # Stable Diffusion's networks know CLIP's states of the padding as they come without a mask.
    as_it_comes = not pad_to_longest and _is_clip(text_encoder)
    output = text_encoder(
        input_ids=tokens["input_ids"].to(device),
        attention_mask=None if as_it_comes else attention_mask,
    )
    return output.last_hidden_state, attention_mask


def _is_clip(text_encoder: nn.Module) -> bool:
    config: Any = getattr(text_encoder, "config", None)
    is_clip = getattr(config, "model_type", "").startswith("clip")
    return is_clip and not getattr(config, "use_attention_mask", False)


class PromptEncoder:
    """Prompts to embeddings, each distinct prompt encoded once and alone.

    Alone, so that a prompt's embedding does not depend on which others stand beside it.

    Args:
        tokenizer: of the transformers library.
        text_encoder: its encoder.
        prompt_adapter: maps hidden states to what the networks were trained on; None: the hidden
            states themselves at the tokenizer's full length, as Stable Diffusion has it.
        device: where the encoder runs; None: where its weights are.
        max_entries: embeddings kept; the one not used for longest is dropped.
    """

    def __init__(
        self,
        tokenizer: Any,
        text_encoder: nn.Module,
        prompt_adapter: nn.Module | None = None,
        *,
        device: torch.device | str | None = None,
        max_entries: int = 256,
    ):
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        self.prompt_adapter = prompt_adapter
        self.device = device
        self.max_entries = max_entries
        self._embeds: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """All but the lock and what is remembered, so that it can be sent to another process."""
        state = self.__dict__ | {"_embeds": OrderedDict()}
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The networks that an embedding depends on."""
        return tuple(
            module for module in (self.text_encoder, self.prompt_adapter) if module is not None
        )

    def __call__(self, prompts: Sequence[str]) -> Float[Tensor, "prompts tokens dim"]:
        """Embeddings of `prompts`, in their order, fp32.

        Args:
            prompts: one or more prompts; repeated ones cost nothing.
        """
        with self._lock:  # Executors may call from several threads.
            distinct = {prompt: self._encode(prompt) for prompt in dict.fromkeys(prompts)}
        return torch.stack([distinct[prompt] for prompt in prompts])

    @torch.no_grad()
    def _encode(self, prompt: str) -> Float[Tensor, "tokens dim"]:
        if prompt in self._embeds:
            self._embeds.move_to_end(prompt)
            return self._embeds[prompt]
        hidden, attention_mask = text_hidden_states(
            [prompt],
            self.tokenizer,
            self.text_encoder,
            device=self.device,
            pad_to_longest=self.prompt_adapter is not None,
        )
        if (
            hidden.shape[1] >= min(self.tokenizer.model_max_length, _MAX_TOKENS)
            and attention_mask.all()
        ):
            logger.warning(
                "The prompt %r may be longer than %d tokens; the rest is cut off.",
                prompt,
                hidden.shape[1],
            )
        if self.prompt_adapter is not None:
            dtype = next(self.prompt_adapter.parameters()).dtype
            hidden = self.prompt_adapter(hidden.to(dtype), attention_mask)
        self._embeds[prompt] = hidden[0].float()
        if len(self._embeds) > self.max_entries:
            self._embeds.popitem(last=False)
        return self._embeds[prompt]
