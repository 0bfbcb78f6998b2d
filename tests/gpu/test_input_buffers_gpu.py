"""Inputs on their way to a device that is busy: each step sees its own."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from step_inputs import step

from headway.server.engine.input_buffers import InputBuffers

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def test_steps_behind_a_busy_device_are_not_overwritten() -> None:
    """More of them than may be under way: the host then waits for the first."""
    rng = random.Random(0)
    buffers = InputBuffers(64, 8, 10, torch.device("cuda"))
    torch.cuda._sleep(200_000_000)  # a tenth of a second
    expected, found = [], []
    for _ in range(6):
        inputs = step(rng, [1] * 3)
        token_ids, batch = buffers.load(inputs, np.arange(3), 4)
        width = inputs.block_tables.shape[1]
        assert batch.block_tables.shape == (4, 10), "whole rows, whose addresses and strides never change"
        expected.append((inputs.token_ids.copy(), inputs.slot_mapping.copy(), inputs.block_tables.copy()))
        found.append((token_ids[:3].clone(), batch.slot_mapping[:3].clone(), batch.block_tables[:3, :width].clone()))
    for arrays, tensors in zip(expected, found, strict=True):
        assert all(np.array_equal(tensor.cpu().numpy(), array) for tensor, array in zip(tensors, arrays, strict=True))
