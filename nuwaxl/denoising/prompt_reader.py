"""What a prompt is understood to say: the prompt adapter's tokens, read by fixed prototypes.

Knows prompts and the facts of the toon world, not pictures and not films.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from nuwaxl.denoising.text import text_hidden_states
from nuwaxl.models.prompt_adapter import PromptAdapter
from nuwaxl.toon import (
    ACTIONS,
    DIRECTIONS,
    TIMES_OF_DAY,
    actors,
    backgrounds,
    unknown_words,
)  # fmt: skip
from nuwaxl.toon.known_words import names_of

_BATCH = 64


def known_facts() -> dict[str, tuple[str, ...]]:
    """Facts that captions state, with their values."""
    return {
        "actor": tuple(actors()),
        "background": tuple(backgrounds()),
        "time_of_day": tuple(TIMES_OF_DAY),
        "action": tuple(ACTIONS),
        "direction": tuple(DIRECTIONS),
    }


class FactReader(nn.Module):
    """The adapter, read by fixed prototypes: token k tells fact k, and nothing else.

    Each value of a fact has a random direction of its own, orthogonal to the others'; class 0 is
    'not mentioned'. Logits are cosines, so a token must point along its value's direction: facts
    stand far apart for a network that reads the tokens, where free reading heads would be content
    with any small linear trace. Further tokens of the adapter tell nothing.
    """

    scale: float = 16.0
    """Of the cosines: sharp enough for 41 classes."""

    def __init__(self, adapter: PromptAdapter, facts: Mapping[str, Sequence[str]]):
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
        self.facts = {name: tuple(values) for name, values in facts.items()}

    def forward(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        """The adapter's tokens at unit length, (batch, tokens, dim)."""
        return functional.normalize(self.adapter(hidden_states, attention_mask).float(), dim=-1)

    def logits(self, tokens: Tensor) -> dict[str, Tensor]:
        """Logits per fact, each (batch, classes), of tokens at unit length."""
        return {
            name: self.scale * tokens[:, index] @ self.get_buffer(f"{name}_prototypes").T
            for index, name in enumerate(self.facts)
        }


class PromptReader:
    """A model's text encoder and prompt adapter, asked what they make of a prompt.

    Args:
        tokenizer: of the transformers library.
        text_encoder: its encoder.
        adapter: trained by the stage `prompts` on the encoder's hidden states.
    """

    def __init__(self, tokenizer: Any, text_encoder: nn.Module, adapter: PromptAdapter):
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder.eval()
        self.network = FactReader(adapter, known_facts()).eval()

    @classmethod
    def from_pretrained(cls, model: Path, adapter: Path | None = None) -> "PromptReader":
        """The reader of a model's folder.

        Args:
            model: folder of a pipeline.
            adapter: folder of another adapter than its own.
        """
        from transformers import AutoModel, AutoTokenizer

        return cls(
            AutoTokenizer.from_pretrained(model / "tokenizer"),
            AutoModel.from_pretrained(
                model / "text_encoder", dtype=torch.float32, disable_mmap=True
            ),
            PromptAdapter.from_pretrained(
                adapter or model / "prompt_adapter", dtype=torch.float32, disable_mmap=True
            ),
        )

    @torch.no_grad()
    def tokens(self, prompts: Sequence[str]) -> Float[Tensor, "prompts tokens dim"]:
        """The adapter's tokens at unit length."""
        parts = [
            self.network(
                *text_hidden_states(
                    prompts[start : start + _BATCH], self.tokenizer, self.text_encoder
                )
            )
            for start in range(0, len(prompts), _BATCH)
        ]
        return torch.cat(parts)

    def read(self, prompts: Sequence[str]) -> list[dict[str, str | None]]:
        """What each prompt is understood to say; None: not mentioned."""
        return self._values(self.tokens(prompts))

    def _values(self, tokens: Tensor) -> list[dict[str, str | None]]:
        columns = {
            name: [(None, *self.network.facts[name])[i] for i in logits.argmax(-1).tolist()]
            for name, logits in self.network.logits(tokens).items()
        }
        return [{name: columns[name][row] for name in columns} for row in range(len(tokens))]

    def _tellers(
        self, tokens: Tensor, whole: Mapping[str, str | None], words: Sequence[str]
    ) -> dict[str, str]:
        """Word -> the value that it tells: the word without which that is read least.

        Args:
            tokens: of the prompt, and of the prompt without each of the words.
            whole: what the prompt is read as.
            words: those taken out.
        """
        meant: dict[str, str] = {}
        logits = self.network.logits(tokens)
        others = self._values(tokens[1:])
        for name, value in whole.items():
            if value is None or not words:
                continue
            column = logits[name][1:, 1 + self.network.facts[name].index(value)]
            row = int(column.argmin())
            # Without its word a fact is not mentioned; an actor is always read.
            if others[row][name] is None or (name == "actor" and others[row][name] != value):
                meant.setdefault(words[row], value)
        return meant

    def untaught(
        self,
        prompts: Sequence[str],
        actor_names: tuple[str, ...] | None = None,
        background_names: tuple[str, ...] | None = None,
    ) -> list["Untaught"]:
        """What is asked for and was not taught: words without a meaning here, each once.

        An actor or a place that was not taught is named also where all words are known:
        'deep water' is the deep sea.

        Args:
            prompts: of a film.
            actor_names: those taught; None: all of the world.
            background_names: those taught; None: all of the world.
        """
        dictionary = self.tokenizer.get_vocab()
        things = {*actors()} - {*(actor_names or actors())}
        things |= {*backgrounds()} - {*(background_names or backgrounds())}
        not_taught = {word for thing in things for word in names_of(thing)}
        found: dict[str, Untaught] = {}
        for prompt in dict.fromkeys(prompts):
            missing = unknown_words(prompt, actor_names, background_names, dictionary=dictionary)
            readings = [prompt, *(_without(prompt, word) for word in missing)]
            tokens = self.tokens(readings)
            whole = self._values(tokens[:1])[0]
            meant = self._tellers(tokens, whole, missing)
            strange = {
                value
                for name, names in (("actor", actor_names), ("background", background_names))
                if (value := whole[name]) is not None and names is not None and value not in names
            }
            for word in missing:
                read_as = None if word in not_taught else meant.get(word)
                found.setdefault(word, Untaught(word, read_as))
            for value in sorted(strange - set(meant.values())):
                if not names_of(value) & set(missing):
                    found.setdefault(value, Untaught(value, None))
        return list(found.values())


@dataclass(frozen=True)
class Untaught:
    """A word of a prompt, or a thing it names, that a model was not taught."""

    word: str
    read_as: str | None
    """What it is understood as all the same: without it the prompt would be read otherwise."""

    def __str__(self) -> str:
        return self.word if self.read_as is None else f"{self.word} (read as {self.read_as})"


def _without(prompt: str, word: str) -> str:
    return re.sub(rf"(?<![a-z]){re.escape(word)}(?![a-z])", "", prompt, flags=re.IGNORECASE)
