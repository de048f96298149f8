import pytest
import torch

from nuwaxl.models import PromptAdapter


def adapter() -> PromptAdapter:
    torch.manual_seed(0)
    return PromptAdapter(text_dim=6, dim=8, num_tokens=3, num_layers=2, heads=2, mlp_dim=8).eval()


def test_a_prompt_of_any_length_becomes_the_same_number_of_unit_scale_tokens():
    model = adapter()
    for length in (1, 5):
        tokens = model(10 * torch.randn(2, length, 6))
        assert tokens.shape == (2, 3, 8)
        torch.testing.assert_close(tokens.mean(-1), torch.zeros(2, 3), atol=1e-5, rtol=0)
        torch.testing.assert_close(
            tokens.std(-1, correction=0), torch.ones(2, 3), atol=1e-3, rtol=0
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padding_changes_nothing(dtype):
    model = adapter()
    hidden_states = torch.randn(1, 4, 6)
    padded = torch.cat([hidden_states, torch.full((1, 3, 6), 9.0)], dim=1)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0]])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
        tokens, from_padded = model(hidden_states), model(padded, mask)
    torch.testing.assert_close(
        from_padded, tokens, atol=1e-5 if dtype == torch.float32 else 0.1, rtol=0
    )
    assert not torch.allclose(model(padded), tokens.float(), atol=0.1)


def test_a_prompt_that_is_all_padding_is_still_finite():
    for dtype in (torch.float32, torch.bfloat16):
        model, mask = adapter(), torch.zeros(1, 4, dtype=torch.long)
        torch.nn.Module.to(model, dtype)
        assert model(torch.randn(1, 4, 6, dtype=dtype), mask).isfinite().all()


def test_every_parameter_is_trained():
    model = adapter()
    model(torch.randn(2, 4, 6)).pow(3).sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_saved_adapter_comes_back_bit_for_bit(tmp_path):
    model = adapter()
    model.save_pretrained(tmp_path)
    again = PromptAdapter.from_pretrained(tmp_path, disable_mmap=True)
    hidden_states = torch.randn(1, 4, 6)
    assert torch.equal(again(hidden_states), model(hidden_states))
