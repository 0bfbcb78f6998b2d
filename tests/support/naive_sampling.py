"""Sampling by the book: one row at a time, float64, sorted lists, nothing clever. What the engine's sampler is judged by."""

from __future__ import annotations

from collections import Counter

import numpy as np

from headway.server.types import SamplingParams


def change_logits(logits: list[float], sampling: SamplingParams, prompt: list[int], output: list[int]) -> list[float]:
    """Bias, min_tokens, then penalties, from the definitions."""
    counts = Counter(output)
    changed = []
    for token, logit in enumerate(logits):
        value = logit + sampling.logit_bias.get(token, 0.0)
        ends = token in sampling.stop_token_ids or (not sampling.ignore_eos and token in sampling.eos_token_ids)
        if ends and len(output) < sampling.min_tokens:
            value = -np.inf
        if token in prompt or token in counts:
            value = value / sampling.repetition_penalty if value > 0 else value * sampling.repetition_penalty
        value -= sampling.frequency_penalty * counts[token] + sampling.presence_penalty * (token in counts)
        changed.append(value)
    return changed


def distribution(logits: list[float], sampling: SamplingParams) -> np.ndarray:
    """The probabilities of all tokens after temperature, min-p, top-k and top-p."""
    scaled = np.asarray(logits, dtype=np.float64) / sampling.temperature
    probs = np.exp(scaled - scaled.max())
    probs /= probs.sum()
    kept = [token for token in range(len(probs)) if probs[token] >= sampling.min_p * probs.max()]
    kept.sort(key=lambda token: (-probs[token], token))
    if sampling.top_k > 0:
        kept = kept[: sampling.top_k]
    if sampling.top_p < 1.0:
        mass = probs[kept].sum()
        running, nucleus = 0.0, []
        for token in kept:
            nucleus.append(token)
            running += probs[token] / mass
            if running >= sampling.top_p:
                break
        kept = nucleus
    result = np.zeros(len(probs))
    result[kept] = probs[kept] / probs[kept].sum()
    return result
