"""What --eplb-config says: when experts move between ranks, and how many more of them there are than the model has."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from headway.server.config.json_problems import key_of, sentence_of

FLAG = "--eplb-config"


class BalancingSettings(BaseModel):
    """The JSON, checked. Steps are the engine's."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    window_size: int = Field(default=1000, gt=0, le=10_000)  # the last steps, whose load counts
    step_interval: int = Field(default=3000, gt=0)  # from one placement to the next
    num_redundant_experts: int = Field(default=0, ge=0)  # slots of a layer beside one for each expert
    log_balancedness: bool = False
    log_balancedness_interval: int | None = Field(default=None, gt=0)  # None: step_interval
    use_async: Literal[True] = True  # requests go on while experts move
    policy: Literal["default"] = "default"

    @property
    def logged_steps(self) -> int:
        """From one line of the log to the next; 0: there are none."""
        return (self.log_balancedness_interval or self.step_interval) if self.log_balancedness else 0


def balancing_config_problems(asked: dict[str, Any]) -> list[str]:
    """A sentence for each thing in the JSON that can't be had."""
    try:
        BalancingSettings.model_validate(asked)
    except ValidationError as problem:
        return [f"{FLAG}: {_sentence(error)}" for error in problem.errors()]
    return []


def _sentence(error: Any) -> str:
    if key_of(error) == "use_async":
        return f"use_async must be true, got {error['input']!r}: experts move a layer at a time between steps; leave it out"
    return sentence_of(error, BalancingSettings)
