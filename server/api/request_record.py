"""What is known of an HTTP request once it has ended: made with its id, filled by those who generate for it, told by the access log."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class RequestRecord:
    """Of a batch or a WebSocket, the sums of all that was generated."""

    request_id: str
    num_generations: int = 0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_completion_tokens: int = 0
    finish_reasons: set[str] = field(default_factory=set)

    def add(self, prompt_tokens: int, cached_tokens: int, completion_tokens: int, reasons: set[str]) -> None:
        """A generation that has ended."""
        self.num_generations += 1
        self.num_prompt_tokens += prompt_tokens
        self.num_cached_tokens += cached_tokens
        self.num_completion_tokens += completion_tokens
        self.finish_reasons |= reasons

    def told(self) -> dict[str, object]:
        """For the log; empty where nothing was generated."""
        if not self.num_generations:
            return {}
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "cached_tokens": self.num_cached_tokens,
            "completion_tokens": self.num_completion_tokens,
            "finish_reason": ",".join(sorted(self.finish_reasons)),
        }
