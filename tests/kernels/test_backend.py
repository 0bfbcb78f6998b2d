"""Which implementation runs: automatically, and when one is asked for by name."""

from __future__ import annotations

import pytest
import torch

from headway.kernels import backend, norm
from headway.kernels.backend import OVERRIDE, KernelUnavailable, implementation, is_interpreting


@pytest.fixture(autouse=True)
def _no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OVERRIDE, raising=False)


def test_cpu_takes_the_cpu_version_where_there_is_one() -> None:
    assert implementation("norm", "cpu").__name__ == "headway.kernels.cpu.norm"


def test_other_devices_fall_back_to_the_reference() -> None:
    assert implementation("norm", "mps").__name__ == "headway.kernels.reference.norm"


def test_cuda_without_triton_takes_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_has_triton", lambda: False)
    backend._implementation.cache_clear()
    assert implementation("norm", "cuda").__name__ == "headway.kernels.reference.norm"
    backend._implementation.cache_clear()


def test_cuda_takes_triton() -> None:
    pytest.importorskip("triton")
    assert implementation("norm", "cuda").__name__ == "headway.kernels.gpu.norm"


@pytest.mark.parametrize(
    ("choice", "op", "device", "message"),
    [
        ("fast", "norm", "cpu", "'fast' is not one of reference, triton, cpu"),
        ("cpu", "moe", "cpu", "'moe' has no cpu implementation"),
        ("cpu", "norm", "cuda", "tensors are on cuda"),
    ],
)
def test_a_choice_that_cannot_run_fails(choice: str, op: str, device: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OVERRIDE, choice)
    with pytest.raises(KernelUnavailable, match=message):
        implementation(op, device)


def test_a_choice_reaches_the_public_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(3, 16), torch.randn(16)
    expected = norm.rms_norm(x, weight, 1e-5)
    for choice in ("reference", "triton") if is_interpreting() else ("reference",):
        monkeypatch.setenv(OVERRIDE, choice)
        torch.testing.assert_close(norm.rms_norm(x, weight, 1e-5), expected)


def test_wrong_tensors_are_named() -> None:
    with pytest.raises(ValueError, match="weight has shape"):
        norm.rms_norm(torch.randn(3, 16), torch.randn(15), 1e-5)
    with pytest.raises(ValueError, match="x has dtype"):
        norm.rms_norm(torch.ones(3, 16, dtype=torch.int32), torch.randn(16), 1e-5)
