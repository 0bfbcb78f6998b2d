"""The reference of a mixture of experts against the formula, token by token, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from headway.kernels.moe import ClampedGate, moe, route_tokens

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.05}


def tensors(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Five tokens, two of three experts each: x, gate_up, down, weights, experts. Nobody goes to expert 1 first."""
    generator = torch.Generator().manual_seed(0)
    x, gate_up, down = (torch.randn(*size, generator=generator).to(dtype) for size in ((5, 6), (3, 8, 6), (3, 6, 4)))
    experts = torch.tensor([[0, 2], [2, 0], [2, 1], [0, 2], [0, 1]], dtype=torch.int32)
    return x, gate_up, down, torch.rand(5, 2, generator=generator), experts


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_each_token_gets_the_weighted_sum_of_its_experts(dtype: torch.dtype) -> None:
    x, gate_up, down, weights, experts = tensors(dtype)
    expected = torch.zeros(5, 6)
    for token in range(5):
        for weight, expert in zip(weights[token], experts[token].tolist(), strict=True):
            gate, up = (gate_up[expert].float() @ x[token].float()).chunk(2)
            expected[token] += weight * (down[expert].float() @ (silu(gate) * up))
    actual = moe(x, gate_up, down, weights, experts)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.float(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_biases_another_gate_and_an_expert_that_is_elsewhere() -> None:
    x, gate_up, down, weights, experts = tensors()
    generator = torch.Generator().manual_seed(1)
    gate_up_bias, down_bias = (torch.randn(*size, generator=generator) for size in ((2, 8), (2, 6)))
    expected = torch.zeros(5, 6)
    for token in range(5):
        for weight, expert in zip(weights[token], experts[token].tolist(), strict=True):
            if expert < 2:
                gate, up = (gate_up[expert] @ x[token] + gate_up_bias[expert]).chunk(2)
                gate, up = gate.clamp(max=0.5), up.clamp(-0.5, 0.5)
                expected[token] += weight * (down[expert] @ (gate * torch.sigmoid(1.7 * gate) * (up + 1)) + down_bias[expert])
    biases = {"gate_up_bias": gate_up_bias, "down_bias": down_bias}
    actual = moe(x, gate_up[:2], down[:2], weights, experts, **biases, gate=ClampedGate(0.5, 1.7))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_routes_are_the_highest_scores_and_ties_go_to_the_lower_id() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0, 3.0], [2.0, 2.0, 2.0, 2.0]])
    for scoring, scores in (("softmax", logits.softmax(-1)), ("sigmoid", logits.sigmoid())):
        weights, experts = route_tokens(logits, 3, scoring=scoring, renormalise=False)
        assert experts.tolist() == [[1, 3, 2], [0, 1, 2]]
        assert torch.equal(weights, scores.gather(1, experts.long()))
        whole, _ = route_tokens(logits, 3, scoring=scoring, renormalise=True)
        torch.testing.assert_close(whole, weights / weights.sum(-1, keepdim=True))


def test_tensors_that_do_not_fit_are_refused() -> None:
    x, gate_up, down, weights, experts = tensors()
    with pytest.raises(ValueError, match="gate_up has shape"):
        moe(x, gate_up[:, :-1], down, weights, experts)
    with pytest.raises(ValueError, match="down has shape"):
        moe(x, gate_up, down[:, :-1], weights, experts)
    with pytest.raises(ValueError, match="down_bias has shape"):
        moe(x, gate_up, down, weights, experts, down_bias=torch.zeros(3, 5))
    with pytest.raises(ValueError, match="experts has shape"):
        moe(x, gate_up, down, weights, experts[:, :1])
    with pytest.raises(ValueError, match="all must be the same"):
        moe(x, gate_up.half(), down, weights, experts)
    with pytest.raises(ValueError, match=r"experts is torch.int64"):
        moe(x, gate_up, down, weights, experts.long())
    with pytest.raises(ValueError, match=r"weights is .* expected contiguous"):
        moe(x, gate_up, down, weights.t().contiguous().t(), experts)
    with pytest.raises(ValueError, match="top_k is 4"):
        route_tokens(torch.zeros(2, 3), 4, scoring="softmax", renormalise=True)
