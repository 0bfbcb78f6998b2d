"""Objects inside of a request that say how tokens are chosen."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from headway.server.types import ProcessorChoice, RepetitionRule

# Each token of an answer is compared with the one a pattern's size before it, for every size.
MAX_PATTERN_SIZE = 1024
_MAX_ARGUMENTS = 256

# As far as it can be sent to the engine.
_Scalar = bool | Annotated[int, Field(ge=-(2**63), lt=2**63)] | float | str
ExtraArgument = _Scalar | list[_Scalar]


class RepetitionDetection(BaseModel):
    """Ends an answer (finish_reason repetition) that ends in the same tokens ``min_count`` times in a row."""

    model_config = ConfigDict(extra="forbid")

    max_pattern_size: int = Field(0, ge=0, le=MAX_PATTERN_SIZE, description="Most tokens of the pattern; 0: off.")
    min_pattern_size: int = Field(0, ge=0, le=MAX_PATTERN_SIZE, description="Fewest tokens of the pattern; 0: one.")
    min_count: int = Field(0, ge=0, lt=2**31, description="How many times in a row, 2 or more.")

    @model_validator(mode="after")
    def _fits(self) -> RepetitionDetection:
        if self.min_pattern_size > self.max_pattern_size:
            raise ValueError("min_pattern_size of repetition_detection must not exceed max_pattern_size")
        if self.max_pattern_size and self.min_count < 2:
            raise ValueError("min_count of repetition_detection must be at least 2 with a max_pattern_size")
        return self

    @property
    def rule(self) -> RepetitionRule | None:
        if self.max_pattern_size == 0:
            return None
        return RepetitionRule(max(self.min_pattern_size, 1), self.max_pattern_size, self.min_count)


class ProcessorCall(BaseModel):
    """A function of --logits-processors that, called so, gives what processes the logits."""

    model_config = ConfigDict(extra="forbid")

    qualname: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    args: list[ExtraArgument] | None = Field(None, max_length=_MAX_ARGUMENTS)
    kwargs: dict[str, ExtraArgument] | None = Field(None, max_length=_MAX_ARGUMENTS)

    @property
    def choice(self) -> ProcessorChoice:
        return ProcessorChoice(self.qualname, self.args or [], self.kwargs or {})
