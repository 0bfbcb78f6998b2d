"""Options about structured outputs."""

from __future__ import annotations

from typing import Any

from headway.server.config.fields import Topic, option

BACKENDS = ("auto", "guidance", "llguidance")  # words for the one library that is used here
_SWITCHES = ("disable_any_whitespace", "disable_additional_properties", "disable_fallback", "enable_in_reasoning")


class StructuredConfig(Topic):
    """Structured outputs."""

    structured_outputs_config: dict[str, Any] = option(
        {},
        "JSON: `disable_any_whitespace` (no blanks between the marks of JSON), `disable_additional_properties` (objects have only the "
        "properties that their schemas list), `enable_in_reasoning` (the constraint holds for the reasoning too). "
        "`backend` may be auto or guidance.",
    )

    @property
    def disables_any_whitespace(self) -> bool:
        return bool(self.structured_outputs_config.get("disable_any_whitespace"))

    @property
    def disables_additional_properties(self) -> bool:
        return bool(self.structured_outputs_config.get("disable_additional_properties"))

    @property
    def is_enabled_in_reasoning(self) -> bool:
        return bool(self.structured_outputs_config.get("enable_in_reasoning"))


def structured_problems(structured: StructuredConfig) -> list[str]:
    """A sentence for each thing that can't be served."""
    found = []
    for name, value in structured.structured_outputs_config.items():
        if name == "backend":
            if value not in BACKENDS:
                found.append(f"--structured-outputs-config: backend must be one of {', '.join(BACKENDS)}, got {value!r}: leave it out")
        elif name == "reasoning_parser":
            found.append("--structured-outputs-config: reasoning_parser has an option of its own, --reasoning-parser")
        elif name not in _SWITCHES:
            known = ", ".join(["backend", *_SWITCHES])
            found.append(f"--structured-outputs-config: {name!r} is none of its keys ({known}): leave it out")
        elif not isinstance(value, bool):
            found.append(f"--structured-outputs-config: {name} must be true or false, got {value!r}")
    return found
