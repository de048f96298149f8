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

from nuwaxl.config import ConfigError
from nuwaxl.denoising.prompt_reader import FactReader, known_facts
from nuwaxl.denoising.text import text_hidden_states
from nuwaxl.models.prompt_adapter import PromptAdapter
from nuwaxl.toon.captions import mentioned
from nuwaxl.toon.loose_captions import loose_caption
from nuwaxl.toon.sampling import sample_scene
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
    num_loose_captions: int = 0
    """Prompts as people type them beside those captions: other words, any order, slips."""
    num_held_out: int = 1000
    """Further captions of each kind on which accuracy is logged."""
    token_dropout: float = 0.0
    """Chance that a token of the text is hidden, so that none is relied on alone."""
    base: str = ""
    """Folder of a prompt adapter to start from: its sizes replace `model`."""
    keep_weight: float = 0.0
    """Weight of staying near the tokens that `base` gives, where a network was trained on them."""

    base_share: float = 0.0
    """Share of `base` in the weights that are written: between both the tokens stay nearer to those
    of `base` than they read worse (Wortsman et al. 2022, robust fine-tuning)."""

    def __post_init__(self) -> None:
        """Refuse shares that are none, and keeping what is not there."""
        if not 0 <= self.token_dropout < 1:
            raise ValueError(
                f"`token_dropout` must be from 0 to below 1, got {self.token_dropout!r}."
            )
        if not 0 <= self.base_share < 1:
            raise ValueError(f"`base_share` must be from 0 to below 1, got {self.base_share!r}.")
        for name in ("keep_weight", "base_share"):
            if getattr(self, name) and not self.base:
                raise ValueError(f"`{name}` needs `base`, the adapter of which something is kept.")


class PromptsStage:
    """Cross-entropy of every fact, those not mentioned included."""

    def __init__(self, config: PromptsTraining):
        from transformers import AutoModel, AutoTokenizer

        self.config = config
        self.facts = known_facts()
        encoder = AutoModel.from_pretrained(config.text_encoder, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(config.tokenizer)
        self.model = FactReader(_adapter(config, encoder.config.hidden_size), self.facts)
        counts = (config.num_captions, config.num_loose_captions)
        self.learned = self._encode(encoder, tokenizer, counts, 0)
        if config.keep_weight:
            self.learned["kept"] = self._kept_tokens()
        held_out = [(config.num_held_out, 0)]
        if config.num_loose_captions:
            held_out.append((0, config.num_held_out))
        self.held_out = [self._encode(encoder, tokenizer, count, 1) for count in held_out]

    def batch(self, index: int, batch_size: int) -> dict[str, Tensor]:
        """Hidden states, mask and labels of random captions."""
        rng = np.random.default_rng((self.config.loop.seed, 2, index))
        rows = torch.from_numpy(rng.integers(len(self.learned["mask"]), size=batch_size))
        batch = {name: values[rows] for name, values in self.learned.items()}
        if self.config.token_dropout:
            seen = torch.from_numpy(rng.random(batch["mask"].shape) >= self.config.token_dropout)
            seen[:, 0] = True  # The encoder's token for the whole sentence.
            batch["mask"] = batch["mask"] * seen
        return batch

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy over facts, and the distance to the tokens that are kept."""
        tokens = model(batch["hidden"].float(), batch["mask"])
        logits = self.model.logits(tokens)
        losses = [
            functional.cross_entropy(logits[name].float(), batch[name]) for name in self.facts
        ]
        right = [(logits[name].argmax(-1) == batch[name]).float().mean() for name in self.facts]
        loss, told = torch.stack(losses).mean(), dict(zip(self.facts, right, strict=True))
        if "kept" in batch:
            distance = 1 - (tokens * batch["kept"].float()).sum(-1).mean()
            loss, told["distance"] = loss + self.config.keep_weight * distance, distance.detach()
        return loss, told

    @torch.no_grad()
    def accuracy(self) -> dict[str, float]:
        """Share of facts read rightly from captions never learned, unmentioned ones included.

        Of loose captions, where such are learned, under names of their own.
        """
        device = next(self.model.parameters()).device
        shares = {}
        for kind, part in zip(("", "loose "), self.held_out, strict=False):
            held = {name: values.to(device) for name, values in part.items()}
            logits = self.model.logits(self.model(held["hidden"].float(), held["mask"]))
            shares |= {
                kind + name: (logits[name].argmax(-1) == held[name]).float().mean().item()
                for name in self.facts
            }
        return shares

    @torch.no_grad()
    def save(self, folder: Path) -> None:
        """Write the adapter; the reading heads have done their work."""
        share = self.config.base_share
        if share:
            base = _adapter(self.config, self.model.adapter.config["text_dim"]).state_dict()
            weights = self.model.adapter.state_dict()  # The tensors themselves, not copies.
            for name, weight in weights.items():
                weight.lerp_(base[name].to(weight), share)
        self.model.adapter.save_pretrained(folder)
        (folder / "accuracy.txt").write_text(
            "".join(f"{name} {value:.4f}\n" for name, value in self.accuracy().items())
        )

    def _captions(self, counts: tuple[int, int], part: int) -> list[tuple[str, dict[str, str]]]:
        """So many captions of the world and loose ones, and what they tell."""
        rng = np.random.default_rng((self.config.loop.seed, 3, part))
        captions = []
        for _ in range(counts[0]):
            scene = sample_scene(rng, 4.0)
            text, stated = mentioned(scene, rng)
            captions.append((text, {name: getattr(scene, name) for name in stated}))
        rng = np.random.default_rng((self.config.loop.seed, 4, part))
        return captions + [loose_caption(rng) for _ in range(counts[1])]

    @torch.no_grad()
    def _encode(
        self, encoder: Any, tokenizer: Any, counts: tuple[int, int], part: int
    ) -> dict[str, Tensor]:
        """Captions `part`, encoded: hidden states padded to one length, masks, labels."""
        captions, count = self._captions(counts, part), sum(counts)
        prompts = [text for text, _ in captions]
        labels = {name: torch.zeros(count, dtype=torch.long) for name in self.facts}
        for row, (_, facts) in enumerate(captions):
            for name, value in facts.items():
                labels[name][row] = 1 + self.facts[name].index(value)
        hidden = torch.zeros(count, _MAX_TOKENS, encoder.config.hidden_size, dtype=torch.bfloat16)
        mask = torch.zeros(count, _MAX_TOKENS, dtype=torch.long)
        # Like lengths together: less padding, half the time.
        order = sorted(range(count), key=lambda row: len(prompts[row]))
        for start in range(0, count, 64):
            rows = order[start : start + 64]
            states, attention = text_hidden_states(
                [prompts[row] for row in rows], tokenizer, encoder
            )
            length = min(_MAX_TOKENS, states.shape[1])
            hidden[rows, :length] = states[:, :length].bfloat16()
            mask[rows, :length] = attention[:, :length]
        return {"hidden": hidden, "mask": mask, **labels}

    @torch.no_grad()
    def _kept_tokens(self) -> Tensor:
        """What `base` gives: of the world's captions as it is, of loose ones as for such captions.

        A loose caption may be read wrongly by `base`, so each of its facts is given the mean token
        of the world's captions that tell the same.
        """
        learned, count = self.learned, self.config.num_captions
        rows = torch.arange(count).split(256)
        own = torch.cat(
            [self.model(learned["hidden"][r].float(), learned["mask"][r]) for r in rows]
        )
        kept = torch.zeros(len(learned["mask"]), *own.shape[1:], dtype=torch.bfloat16)
        kept[:count] = own
        for index, name in enumerate(self.facts):
            for value in learned[name][count:].unique():
                alike = own[learned[name][:count] == value, index]
                if not len(alike):  # As among very few captions.
                    alike = self.model.get_buffer(f"{name}_prototypes")[value][None]
                rows = count + (learned[name][count:] == value).nonzero()[:, 0]
                kept[rows, index] = functional.normalize(alike.mean(0), dim=-1).to(kept.dtype)
        return kept


def _adapter(config: PromptsTraining, text_dim: int) -> PromptAdapter:
    """The adapter to train: `base` or a new one.

    Raises:
        ConfigError: `base` reads another text encoder.
    """
    if not config.base:
        sizes = config.model
        return PromptAdapter(
            text_dim=text_dim,
            dim=sizes.dim,
            num_tokens=sizes.num_tokens,
            num_layers=sizes.num_layers,
            heads=sizes.heads,
        )
    base = PromptAdapter.from_pretrained(config.base, dtype=torch.float32, disable_mmap=True)
    if base.config["text_dim"] != text_dim:
        raise ConfigError(
            f"`base` must read hidden states of width {text_dim}, got {base.config['text_dim']}."
        )
    return base
