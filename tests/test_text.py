from typing import Any

import torch
from tiny import PROMPT_DIM, tiny_prompt_adapter, tiny_text_encoder, tiny_tokenizer

from nuwaxl.denoising.text import PromptEncoder


def prompt_encoder(**changes: Any) -> PromptEncoder:
    return PromptEncoder(tiny_tokenizer(), tiny_text_encoder(), tiny_prompt_adapter(), **changes)


def test_a_prompt_is_encoded_once_and_its_company_does_not_matter() -> None:
    encode = prompt_encoder()
    calls = []
    encode.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    together = encode(["a dog", "the cat walks the beach", "a dog"])
    assert together.shape == (3, 2, PROMPT_DIM)
    assert len(calls) == 2
    assert torch.equal(together[0], together[2])
    assert torch.equal(together[:1], prompt_encoder()(["a dog"]))


def test_the_memory_of_prompts_is_bounded_and_drops_the_longest_unused() -> None:
    encode = prompt_encoder(max_entries=2)
    calls = []
    encode.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    for prompt in ("dog", "cat", "dog", "fox", "dog"):
        encode([prompt])
    assert len(calls) == 3
    encode(["cat"])
    assert len(calls) == 4


def test_without_an_adapter_prompts_are_padded_to_one_length() -> None:
    encode = PromptEncoder(tiny_tokenizer(), tiny_text_encoder())
    assert encode(["a dog", "the cat walks the beach"]).shape == (2, 16, 12)
