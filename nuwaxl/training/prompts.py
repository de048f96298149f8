"""Stage `prompts`: the prompt adapter learns to read who, where, when, what and which way.

A sentence encoder makes "to the left" and "to the right" nearly the same; a U-Net alone takes
hundreds of thousands of pictures to tell them apart. Reading the facts out of captions is cheap.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nuwaxl.denoising.text import text_hidden_states
from nuwaxl.models.prompt_adapter import PromptAdapter
from nuwaxl.toon.assets import DIRECTIONS, TIMES_OF_DAY, actors, backgrounds
from nuwaxl.toon.captions import mentioned
from nuwaxl.toon.sampling import sample_scene
from nuwaxl.toon.scenes import ACTIONS
from nuwaxl.training.loop import LoopConfig

_MAX_TOKENS = 48


@dataclass(frozen=True)
class AdapterConfig:
    """Sizes of the prompt adapter; see `PromptAdapter`."""

    dim: int = 256
    num_tokens: int = 5
    num_layers: int = 2
    heads: int = 4


@dataclass(frozen=True)
class PromptsTraining:
    """The stage `prompts`."""

    text_encoder: str = "nuwaxl/weights/toon/text_encoder"
    """Folder of the text encoder, which stays frozen."""
    tokenizer: str = "nuwaxl/weights/toon/tokenizer"
    model: AdapterConfig = field(default_factory=AdapterConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    num_captions: int = 16000
    """Captions written and encoded once, before the first step."""
    num_held_out: int = 1000
    """Further captions on which accuracy is logged."""


class FactReader(nn.Module):
    """The adapter, read by fixed prototypes: token k tells fact k, and nothing else.

    Each value of a fact has a random direction of its own, orthogonal to the others'; class 0 is
    'not mentioned'. Logits are cosines, so a token must point along its value's direction: facts
    stand far apart for a network that reads the tokens, where free reading heads would be content
    with any small linear trace. Further tokens of the adapter are not trained by this stage.
    """

    scale: float = 16.0
    """Of the cosines: sharp enough for 41 classes."""

    def __init__(self, adapter: PromptAdapter, facts: dict[str, tuple[str, ...]]):
        super().__init__()
        if adapter.config["num_tokens"] < len(facts):
            raise ValueError(
                f"`model.num_tokens` must be at least {len(facts)}, one for each fact, got"
                f" {adapter.config['num_tokens']}."
            )
        self.adapter = adapter
        generator = torch.Generator().manual_seed(0)
        for name, values in facts.items():
            random = torch.randn(adapter.config["dim"], len(values) + 1, generator=generator)
            self.register_buffer(f"{name}_prototypes", torch.linalg.qr(random)[0].T.contiguous())
        self.facts = tuple(facts)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Logits per fact, each (batch, classes)."""
        tokens = functional.normalize(self.adapter(hidden_states, attention_mask).float(), dim=-1)
        return {
            name: self.scale * tokens[:, index] @ self.get_buffer(f"{name}_prototypes").T
            for index, name in enumerate(self.facts)
        }


def known_facts() -> dict[str, tuple[str, ...]]:
    """Facts that captions state, with their values."""
    return {
        "actor": tuple(actors()),
        "background": tuple(backgrounds()),
        "time_of_day": tuple(TIMES_OF_DAY),
        "action": tuple(ACTIONS),
        "direction": tuple(DIRECTIONS),
    }


class PromptsStage:
    """Cross-entropy of every fact, those not mentioned included."""

    def __init__(self, config: PromptsTraining):
        from transformers import AutoModel, AutoTokenizer

        self.config = config
        self.facts = known_facts()
        encoder = AutoModel.from_pretrained(config.text_encoder, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(config.tokenizer)
        adapter = PromptAdapter(
            text_dim=encoder.config.hidden_size,
            dim=config.model.dim,
            num_tokens=config.model.num_tokens,
            num_layers=config.model.num_layers,
            heads=config.model.heads,
        )
        self.model = FactReader(adapter, self.facts)
        self.learned = self._encode(encoder, tokenizer, config.num_captions, 0)
        self.held_out = self._encode(encoder, tokenizer, config.num_held_out, 1)

    def batch(self, index: int, batch_size: int) -> dict[str, Tensor]:
        """Hidden states, mask and labels of random captions."""
        rng = np.random.default_rng((self.config.loop.seed, 2, index))
        rows = torch.from_numpy(rng.integers(self.config.num_captions, size=batch_size))
        return {name: values[rows] for name, values in self.learned.items()}

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy over facts."""
        logits = model(batch["hidden"].float(), batch["mask"])
        losses = [
            functional.cross_entropy(logits[name].float(), batch[name]) for name in self.facts
        ]
        right = [(logits[name].argmax(-1) == batch[name]).float().mean() for name in self.facts]
        return torch.stack(losses).mean(), dict(zip(self.facts, right, strict=True))

    @torch.no_grad()
    def accuracy(self) -> dict[str, float]:
        """Share of facts read rightly from captions never learned, unmentioned ones included."""
        device = next(self.model.parameters()).device
        held = {name: values.to(device) for name, values in self.held_out.items()}
        logits = self.model(held["hidden"].float(), held["mask"])
        return {
            name: (logits[name].argmax(-1) == held[name]).float().mean().item()
            for name in self.facts
        }

    def save(self, folder: Path) -> None:
        """Write the adapter; the reading heads have done their work."""
        self.model.adapter.save_pretrained(folder)
        (folder / "accuracy.txt").write_text(
            "".join(f"{name} {value:.4f}\n" for name, value in self.accuracy().items())
        )

    @torch.no_grad()
    def _encode(self, encoder: Any, tokenizer: Any, count: int, part: int) -> dict[str, Tensor]:
        """Captions `part`, encoded: hidden states padded to one length, masks, labels."""
        rng = np.random.default_rng((self.config.loop.seed, 3, part))
        labels = {name: torch.zeros(count, dtype=torch.long) for name in self.facts}
        prompts = []
        for row in range(count):
            scene = sample_scene(rng, 4.0)
            text, stated = mentioned(scene, rng)
            prompts.append(text)
            for name in stated:
                labels[name][row] = 1 + self.facts[name].index(getattr(scene, name))
        hidden = torch.zeros(count, _MAX_TOKENS, encoder.config.hidden_size, dtype=torch.bfloat16)
        mask = torch.zeros(count, _MAX_TOKENS, dtype=torch.long)
        for start in range(0, count, 64):
            states, attention = text_hidden_states(prompts[start : start + 64], tokenizer, encoder)
            length = min(_MAX_TOKENS, states.shape[1])
            hidden[start : start + 64, :length] = states[:, :length]
            mask[start : start + 64, :length] = attention[:, :length]
        return {"hidden": hidden, "mask": mask, **labels}
