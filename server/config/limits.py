"""Options about what one request may ask for."""

from __future__ import annotations

from headway.server.config.fields import Topic, option


class LimitConfig(Topic):
    """Limits of a request."""

    max_n_sequences: int = option(128, "Largest `n`.", ge=1, le=16384, environment=("VLLM_MAX_N_SEQUENCES",))
    max_completion_prompts: int = option(
        1024, "Most prompts of one /v1/completions request.", ge=1, le=65536, environment=("VLLM_MAX_COMPLETION_PROMPTS",)
    )
    # OpenAI takes 4; agents and evaluation suites send a few more. Each one costs a search per token, so there is an end.
    max_stop_strings: int = option(16, "Most stop strings of a request.", ge=0, le=1024, environment=("VLLM_MAX_STOP_STRINGS",))
