"""The adapters' options: modules in both forms from every source, and what can't be served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headway.server.config.lora import LoraConfig, LoraModule, lora_module, lora_problems, lora_warnings
from headway.server.config.sources import resolve

OBJECT = '{"name": "b", "path": "/x/b, c"}'


def modules(argv: list[str], environ: dict[str, str] | None = None) -> list[LoraModule]:
    resolved = resolve([*argv, "--enable-lora", "--show-config"], environ or {})
    return [lora_module(text) for text in resolved.config.lora.lora_modules]


@pytest.mark.parametrize(
    ("argv", "environ"),
    [
        (["--lora-modules", "a=/x/a", OBJECT], {}),
        ([f'--lora-modules=["a=/x/a", {OBJECT}]'], {}),
        ([], {"SM_VLLM_LORA_MODULES": f'[{{"name": "a", "path": "/x/a"}}, {OBJECT}]'}),
        ([], {"SM_LORA_MODULES": json.dumps(["a=/x/a", OBJECT])}),
    ],
    ids=["words", "JSON list", "objects", "texts"],
)
def test_modules_in_both_forms(argv: list[str], environ: dict[str, str]) -> None:
    assert modules(argv, environ) == [LoraModule("a", "/x/a"), LoraModule("b", "/x/b, c")]


def test_one_object_from_the_environment() -> None:
    assert modules([], {"SM_VLLM_LORA_MODULES": OBJECT}) == [LoraModule("b", "/x/b, c")]
    assert modules([], {"SM_VLLM_LORA_MODULES": "a=/x/a,b=/x/b"}) == [LoraModule("a", "/x/a"), LoraModule("b", "/x/b")]


def test_modules_in_yaml(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("lora-modules:\n- a=/x/a\n- name: b\n  path: /x/b, c\n")
    assert modules(["--config", str(path)]) == [LoraModule("a", "/x/a"), LoraModule("b", "/x/b, c")]


def test_sagemakers_name_for_the_number_of_adapters() -> None:
    resolved = resolve(["demo"], {"SAGEMAKER_MAX_NUMBER_OF_ADAPTERS_IN_MEMORY": "128"})
    assert resolved.config.lora.max_loras == 128


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"lora_modules": ["a=/x"]}, "--lora-modules needs --enable-lora"),
        ({"enable_lora": True, "lora_modules": ["/x/a"]}, "expected name=directory, got '/x/a'"),
        ({"enable_lora": True, "lora_modules": ["=/x/a"]}, "expected name=directory"),
        ({"enable_lora": True, "lora_modules": ['{"name": "a"}']}, "no other keys"),
        ({"enable_lora": True, "lora_modules": ['{"name": "a", "path": "/x", "base_model_name": "m"}']}, "no other keys"),
        ({"enable_lora": True, "lora_modules": ['{"name": "a", "path": 3}']}, "expected"),
        ({"enable_lora": True, "lora_modules": ["a=/x", "a=/y"]}, "more than once"),
        ({"enable_lora": True, "max_loras": 4, "max_cpu_loras": 3}, "--max-cpu-loras 3 is less than --max-loras 4"),
        ({"lora_allowed_prefixes": ["adapters"]}, "absolute paths, got 'adapters'"),
    ],
    ids=str,
)
def test_what_cannot_be_served(options: dict[str, Any], word: str) -> None:
    [problem] = lora_problems(LoraConfig(**options))
    assert word in problem


def test_what_has_no_effect_without_adapters_is_said() -> None:
    asked: dict[str, Any] = {"max_loras": 8, "max_lora_rank": 64, "allow_runtime_lora_updating": True}
    assert lora_warnings(LoraConfig()) == lora_warnings(LoraConfig(enable_lora=True, **asked)) == []
    told = [warning.split()[0] for warning in lora_warnings(LoraConfig(**asked))]
    assert told == ["--max-loras", "--max-lora-rank", "--allow-runtime-lora-updating"]
