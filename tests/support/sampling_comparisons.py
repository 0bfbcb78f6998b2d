"""Sampling and penalties in Triton against the reference, token for token, on any device."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
from kernel_cases import odd_strides
from torch import Tensor

from headway.kernels.penalties import Penalties
from headway.kernels.reference import penalties as reference_penalties
from headway.kernels.reference import sampling as reference
from headway.kernels.sampling import BROKEN, Draws


@dataclass(frozen=True)
class SamplingCase:
    """``step``: logits are multiples of it, so that many are equal; 0: hardly any are."""

    num_rows: int
    vocab_size: int
    step: float = 0.0
    spread: float = 4.0

    def __str__(self) -> str:
        return f"{self.num_rows}x{self.vocab_size}{f' step {self.step}' if self.step else ''} spread {self.spread}"


SAMPLING_CASES = [
    SamplingCase(9, 300),
    SamplingCase(7, 300, step=0.5),
    SamplingCase(8, 513, step=1.0, spread=1.0),
    SamplingCase(6, 257, spread=30.0),
    SamplingCase(4, 64, spread=0.0),
    SamplingCase(3, 1),
    SamplingCase(1, 2),
    SamplingCase(0, 17),
]


def make_logits(case: SamplingCase, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(case.vocab_size)
    logits = torch.randn(case.num_rows, case.vocab_size, generator=generator) * case.spread
    return ((logits / case.step).round() * case.step if case.step else logits).to(device)


def make_draws(case: SamplingCase, seed: int, device: str, *, every_row: bool) -> Draws | None:
    """Options of all kinds, filters alone and together, for all rows or two of three, in any order."""
    generator = torch.Generator().manual_seed(seed)
    lines = torch.randperm(case.num_rows, generator=generator)
    lines = lines if every_row else lines[lines % 3 != 1]
    if not len(lines):
        return None

    def choice(values: list[float], dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.tensor(values, dtype=dtype)[torch.randint(len(values), lines.shape, generator=generator)].to(device)

    v = case.vocab_size
    return Draws(
        lines.to(device),
        choice([v, v, v, 1, 2, 5, 50, max(1, v - 1), v + 3], torch.int64),
        choice([0.2, 0.7, 1.0, 1.9, 1e-5]),
        choice([1.0, 1.0, 0.999, 0.9, 0.5, 0.01, 0.0]),
        choice([0.0, 0.0, 0.0, 0.05, 0.5, 1.0]),
        choice([0.0, 2.0**-53, 0.25, 0.5, 0.75, 1 - 2.0**-53, *torch.rand(6, generator=generator, dtype=torch.float64).tolist()]),
    )


def compare_sampling(module: ModuleType, case: SamplingCase, device: str, *, num_seeds: int = 3) -> None:
    """The same tokens, of each row in a mixed batch with broken ones, with odd strides and rows with few tokens left."""
    for seed in range(num_seeds):
        logits = make_logits(case, device)
        if case.num_rows > 4 and seed:
            logits[0, case.vocab_size // 2] = [torch.nan, torch.inf][seed % 2]
            logits[2] = -torch.inf
            logits[3, : case.vocab_size - 2] = -torch.inf
        draws = make_draws(case, seed, device, every_row=seed % 2 == 0)
        expected = reference.sample_tokens(logits, draws)
        given = odd_strides(logits) if seed % 2 else logits.clone()
        actual = module.sample_tokens(given, draws)
        assert torch.equal(given.nan_to_num(), logits.nan_to_num())
        assert actual.tolist() == expected.tolist()
        if case.num_rows > 4 and seed:
            assert expected[[0, 2]].tolist() == [BROKEN, BROKEN]


PENALTY_SHAPES = [(5, 300, [3, 0]), (3, 4097, [0, 1, 2]), (1, 1, [0]), (2, 64, [])]  # (L, V, lines with penalties)


def make_penalties(shape: tuple[int, int, list[int]], device: str) -> tuple[Tensor, Penalties, Tensor, Tensor]:
    """Logits, penalties of all kinds, counts and what is in the prompts; tables have lines that nobody has."""
    num_lines, vocab_size, lines = shape
    generator = torch.Generator().manual_seed(vocab_size)
    logits = torch.randn(num_lines, vocab_size, generator=generator) * 3
    logits[:, ::7] = -torch.inf
    counts = torch.randint(0, 3, (num_lines + 2, vocab_size), generator=generator).float()
    in_prompt = torch.rand(num_lines + 2, vocab_size, generator=generator) < 0.3
    slots = torch.randperm(num_lines + 2, generator=generator)[: len(lines)]
    parts = [torch.tensor(values)[: len(lines)] for values in ([0.5, 0.0, -1.0], [0.25, 1.5, 0.0], [1.0, 1.3, 0.7])]
    tensors = [part.to(device) for part in (torch.tensor(lines, dtype=torch.int64), slots, *parts)]
    return logits.to(device), Penalties(*tensors), counts.to(device), in_prompt.to(device)


def compare_penalties(module: ModuleType, shape: tuple[int, int, list[int]], device: str, *, strided: bool) -> None:
    logits, penalties, counts, in_prompt = make_penalties(shape, device)
    expected = logits.clone()
    reference_penalties.apply_penalties(expected, penalties, counts, in_prompt)
    actual = odd_strides(logits) if strided else logits
    module.apply_penalties(actual, penalties, counts, in_prompt)
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-6)


def compare_counts(module: ModuleType, num_pairs: int, device: str) -> None:
    """Pairs come more than once; some have no slot, some tokens are none of the model's."""
    generator = torch.Generator().manual_seed(num_pairs)
    slots = torch.randint(-1, 3, (num_pairs,), generator=generator)
    tokens = torch.randint(-2, 13, (num_pairs,), generator=generator)
    expected = torch.zeros(4, 11)
    for slot, token in zip(slots.tolist(), tokens.tolist(), strict=True):
        if slot >= 0 and 0 <= token < 11:
            expected[slot, token] += 1
    counts = torch.zeros(4, 11, device=device)
    module.count_tokens(counts, slots.to(device), tokens.to(device))
    assert torch.equal(counts.cpu(), expected)
