"""How well prompts in people's own words are read: a hundred of them, written beforehand.

python -m benchmarks.own_words

Reads `own_words.yaml` by the prompt adapter alone: what a film then shows is another matter. Says
also whether the words that the model was not taught would be reported, and no others.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from torch.nn import functional

from benchmarks.machine import describe, quiet, save
from nuwaxl.denoising.prompt_reader import PromptReader
from nuwaxl.toon import mentioned, sample_scene

PROMPTS = Path(__file__).parent / "own_words.yaml"
BUNDLED = Path(__file__).parent.parent / "nuwaxl" / "weights" / "toon"
ANY = "any"
# The facts' names in the file of prompts.
LABELS = {
    "actor": "who",
    "background": "where",
    "time_of_day": "when",
    "action": "action",
    "direction": "direction",
}


@dataclass(frozen=True)
class OwnPrompt:
    """A prompt and what it says."""

    prompt: str
    facts: Mapping[str, str | None]
    """Fact -> its value, None: not mentioned, 'any': not counted."""
    unknown: tuple[str, ...] = ()
    """Words that must be reported."""
    extra: tuple[str, ...] = ()
    """Words that may be reported."""


def own_prompts(file: Path = PROMPTS) -> list[OwnPrompt]:
    """The prompts and their labels."""
    return [
        OwnPrompt(
            row["prompt"],
            {name: row.get(label) for name, label in LABELS.items()},
            tuple(word.lower() for word in row.get("unknown", ())),
            tuple(word.lower() for word in row.get("extra", ())),
        )
        for row in yaml.safe_load(file.read_text())
    ]


def accuracy(
    prompts: Sequence[OwnPrompt], found: Sequence[Mapping[str, str | None]]
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Shares read rightly, of each fact, of those mentioned and of all five; and the failures."""
    right: dict[str, list[bool]] = {name: [] for name in LABELS}
    mentioned_right: dict[str, list[bool]] = {name: [] for name in LABELS}
    failures, whole = [], []
    for prompt, facts in zip(prompts, found, strict=True):
        counted = {name: value for name, value in prompt.facts.items() if value != ANY}
        wrong = {name for name, value in counted.items() if facts[name] != value}
        whole.append(not wrong)
        for name, value in counted.items():
            right[name].append(name not in wrong)
            if value is not None:
                mentioned_right[name].append(name not in wrong)
        if wrong:
            told = {name: {"said": counted[name], "read": facts[name]} for name in sorted(wrong)}
            failures.append({"prompt": prompt.prompt, **told})
    shares = {name: float(np.mean(values)) for name, values in right.items()}
    shares["mentioned facts"] = float(np.mean(list(chain.from_iterable(mentioned_right.values()))))
    shares["all facts"] = float(np.mean(list(chain.from_iterable(right.values()))))
    shares["all five"] = float(np.mean(whole))
    return {name: round(value, 4) for name, value in shares.items()}, failures


def reports(
    prompts: Sequence[OwnPrompt], world: Mapping[str, Sequence[str]], reader: PromptReader
) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """What `nuwaxl generate` would report as not taught: counts, and where it is wrong.

    A word that means something known may be reported as long as it is said what it is read as, and
    that is right: 'noon (read as day)'. It counts as explained; else it is blamed.

    Args:
        prompts: with their words.
        world: the actors and backgrounds that the model was taught.
        reader: of the model.
    """
    taught = tuple(world["actors"]), tuple(world["backgrounds"])
    names = ("must be reported", "missed", "explained", "blamed")
    counts: dict[str, int] = dict.fromkeys(names, 0)
    mistakes: list[dict[str, Any]] = []
    for prompt in prompts:
        found = reader.untaught([prompt.prompt], *taught)
        words = [thing.word for thing in found]
        missed = [word for word in prompt.unknown if word not in words]
        others = [thing for thing in found if thing.word not in prompt.unknown + prompt.extra]
        # An actor or a place that was not taught is named by one word at least.
        untaught = [
            value
            for name, taught_names in zip(("actor", "background"), taught, strict=True)
            if (value := prompt.facts[name]) not in (None, ANY, *taught_names)
        ]
        counts["must be reported"] += len(prompt.unknown) + len(untaught)
        missed += untaught[len(others) :]
        right = [thing.read_as in prompt.facts.values() for thing in others if thing.read_as]
        counts["explained"] += sum(right)
        blamed = [
            str(thing)
            for thing in others
            if not untaught
            and (thing.read_as is None or thing.read_as not in prompt.facts.values())
        ]
        counts["missed"] += len(missed)
        counts["blamed"] += len(blamed)
        if missed or blamed:
            mistakes.append({"prompt": prompt.prompt, "missed": missed, "blamed": blamed})
    return counts, mistakes


def grammar_captions(count: int, seed: int = 7) -> list[OwnPrompt]:
    """Captions of the world's own grammar, of scenes that no stage draws."""
    rng = np.random.default_rng(seed)
    captions = []
    for _ in range(count):
        scene = sample_scene(rng, 4.0)
        text, said = mentioned(scene, rng)
        facts = {name: getattr(scene, name) if name in said else None for name in LABELS}
        captions.append(OwnPrompt(text, facts))
    return captions


def measure(model: Path, adapter: Path | None, num_captions: int) -> dict[str, Any]:
    """Figures of the hundred prompts and of `num_captions` captions of the grammar."""
    prompts, captions = own_prompts(), grammar_captions(num_captions)
    reader = PromptReader.from_pretrained(model, adapter)
    shares, failures = accuracy(prompts, reader.read([prompt.prompt for prompt in prompts]))
    texts = [caption.prompt for caption in captions]
    result: dict[str, Any] = {
        "prompts": len(prompts),
        "accuracy": shares,
        "captions": len(captions),
        "accuracy on captions": accuracy(captions, reader.read(texts))[0],
    }
    if adapter is not None:
        ours, own = reader.tokens(texts), PromptReader.from_pretrained(model).tokens(texts)
        cosines = functional.cosine_similarity(ours, own, dim=-1)
        result["cosine to the model's own tokens"] = {
            name: {"mean": round(column.mean().item(), 4), "least": round(column.min().item(), 4)}
            for name, column in zip(LABELS, cosines.T, strict=True)
        }
    world = json.loads((model / "world.json").read_text())
    counts, mistakes = reports(prompts, world, reader)
    return result | {"failures": failures, "reports": counts, "wrong reports": mistakes}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    summary = __doc__.splitlines()[0] if __doc__ else None
    parser = argparse.ArgumentParser(prog="python -m benchmarks.own_words", description=summary)
    parser.add_argument("--model", type=Path, default=BUNDLED, help="folder of a model")
    parser.add_argument("--adapter", type=Path, default=None, help="folder of another adapter")
    parser.add_argument("--captions", type=int, default=1000, help="captions of the grammar")
    parser.add_argument("--output", default=None, help="JSON file")
    options = parser.parse_args(arguments)
    if options.captions < 1:
        parser.error("--captions must be at least 1")
    quiet()
    told = f" --adapter {options.adapter}" if options.adapter else ""
    result = {
        "machine": describe(f"python -m benchmarks.own_words --captions {options.captions}{told}"),
        **measure(options.model, options.adapter, options.captions),
    }
    print(json.dumps(result, indent=1))
    save(result, options.output)
    return result


if __name__ == "__main__":
    main()
