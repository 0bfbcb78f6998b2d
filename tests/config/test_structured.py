"""--structured-outputs-config: what of vLLM's keys is taken, and the sentence for each that is not."""

from __future__ import annotations

import re

import pytest

from headway.server.config.sources import resolve
from headway.server.errors import ConfigError


def test_keys_in_json_and_in_dots() -> None:
    json_form = resolve(["demo", '--structured-outputs-config={"disable_any_whitespace": true, "backend": "guidance"}'], {})
    dotted = resolve(["demo", "--structured-outputs-config.disable_any_whitespace", "true"], {})
    for resolved in (json_form, dotted):
        structured = resolved.config.structured
        assert structured.disables_any_whitespace
        assert not structured.disables_additional_properties
        assert not structured.is_enabled_in_reasoning


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ('{"backend": "xgrammar"}', "backend must be one of auto, guidance, llguidance, got 'xgrammar'"),
        ('{"reasoning_parser": "qwen3"}', "--reasoning-parser"),
        ('{"disable_any_whitespaces": true}', "'disable_any_whitespaces' is none of its keys"),
        ('{"enable_in_reasoning": "no"}', "enable_in_reasoning must be true or false, got 'no'"),
    ],
)
def test_what_is_not_taken(value: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        resolve(["demo", f"--structured-outputs-config={value}"], {})
