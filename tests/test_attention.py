import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch.nn import functional

from nuwaxl.models.attention import (
    MATMUL_MAX_KEYS,
    FastAttnProcessor,
    TemporalAttention,
    attend,
    takes_matmul_path,
)

CPU = torch.device("cpu")


def test_matmul_path_is_for_short_half_precision_sequences_on_a_cpu_only():
    assert takes_matmul_path(CPU, torch.bfloat16, 16)
    assert takes_matmul_path(CPU, torch.bfloat16, MATMUL_MAX_KEYS)
    assert not takes_matmul_path(CPU, torch.bfloat16, MATMUL_MAX_KEYS + 1)
    assert not takes_matmul_path(CPU, torch.float32, 16)
    assert not takes_matmul_path(torch.device("cuda"), torch.bfloat16, 16)
    assert not takes_matmul_path(torch.device("mps"), torch.float16, 16)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 4e-2)])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (7, 3), (5, 13), (2, MATMUL_MAX_KEYS + 1)])
@pytest.mark.parametrize("masked", [None, "bool", "bias"])
def test_attend_equals_scaled_dot_product_attention(dtype, tolerance, queries, keys, masked):
    torch.manual_seed(0)
    query = torch.randn(2, 3, queries, 5)
    key, value = torch.randn(2, 3, keys, 5), torch.randn(2, 3, keys, 5)
    mask = None
    if masked:
        seen = torch.rand(2, 1, 1, keys) < 0.6
        seen[..., 0] = True
        mask = seen if masked == "bool" else torch.where(seen, 0.0, -1e4)
    wanted = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    bias = mask if mask is None or masked == "bool" else mask.to(dtype)
    got = attend(query.to(dtype), key.to(dtype), value.to(dtype), bias)
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), wanted, atol=tolerance, rtol=tolerance)


def test_gradients_of_the_matmul_path_are_those_of_the_fused_kernel():
    torch.manual_seed(0)
    gradients = []
    for function in (attend, functional.scaled_dot_product_attention):
        torch.manual_seed(0)
        query, key, value = inputs = [
            torch.randn(2, 2, n, 4).bfloat16().requires_grad_() for n in (3, 7, 7)
        ]
        function(query, key, value).square().sum().backward()
        gradients.append([tensor.grad for tensor in inputs])
    for ours, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, reference, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("cross", [False, True])
def test_processor_gives_what_diffusers_own_gives(cross):
    torch.manual_seed(0)
    attn = Attention(12, cross_attention_dim=6 if cross else None, heads=3, dim_head=4)
    hidden_states = torch.randn(2, 5, 12)
    encoder = torch.randn(2, 7, 6) if cross else None
    bias = torch.zeros(2, 1, 7 if cross else 5)
    bias[0, 0, -2:] = -1e4
    wanted = attn(hidden_states, encoder, bias)
    attn.set_processor(FastAttnProcessor())  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(attn(hidden_states, encoder, bias), wanted)
    with torch.autocast("cpu", torch.bfloat16):
        half = attn(hidden_states, encoder, bias)
    torch.testing.assert_close(half.float(), wanted, atol=2e-2, rtol=2e-2)


def test_temporal_attention_starts_as_identity_and_then_mixes_frames_of_one_cell_only():
    torch.manual_seed(0)
    layer = TemporalAttention(8, head_dim=4, frame_embed_dim=6)
    hidden_states, embedding = torch.randn(6, 8, 2, 3), torch.randn(2, 3, 6)
    assert torch.equal(layer(hidden_states, embedding), hidden_states)

    torch.nn.init.normal_(layer.get_parameter("attn.to_out.0.weight"))
    before = layer(hidden_states, embedding)
    hidden_states[4, :4, 1, 2] += 1  # clip 1, frame 1
    changed = (layer(hidden_states, embedding) - before).abs().amax(dim=1) > 1e-5
    wanted = torch.zeros(6, 2, 3, dtype=torch.bool)
    wanted[3:, 1, 2] = True
    assert torch.equal(changed, wanted)
