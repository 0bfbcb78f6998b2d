"""What the options let one request ask for."""

from __future__ import annotations

from headway.server.api.protocol.base import GenerationFields
from headway.server.api.protocol.completion import CompletionRequest
from headway.server.config.limits import LimitConfig
from headway.server.errors import RequestError


def check_limits(request: GenerationFields, limits: LimitConfig) -> None:
    """Raises RequestError that names the option, before anything is done for the request."""
    num_prompts = len(request.prompt) if isinstance(request, CompletionRequest) else 1
    _check("n", request.n, limits.max_n_sequences, "--max-n-sequences")
    _check("best_of", request.num_drawn, limits.max_n_sequences, "--max-n-sequences")
    _check("stop", len(request.stop_strings), limits.max_stop_strings, "--max-stop-strings", "strings")
    _check("prompt", num_prompts, limits.max_completion_prompts, "--max-completion-prompts", "prompts")
    most_answers = max(limits.max_n_sequences, limits.max_completion_prompts)
    num_answers = request.num_drawn * num_prompts
    if num_answers > most_answers:
        name = "n" if request.num_drawn == request.n else "best_of"
        raise RequestError(f"{num_prompts} prompts with {name}={request.num_drawn} make more than {most_answers} answers.", name)


def _check(param: str, asked: int, most: int, option: str, things: str | None = None) -> None:
    if asked > most:
        told = f"must be at most {most} ({option}), got {asked}" if things is None else f"holds {asked} {things}; at most {most} ({option})"
        raise RequestError(f"{param} {told}.", param)
