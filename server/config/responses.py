"""Options about /v1/responses: what is kept of them, and how many run without a client."""

from __future__ import annotations

from headway.server.config.fields import Topic, option


class ResponsesConfig(Topic):
    """Responses."""

    enable_responses_store: bool = option(
        True,
        "Keep responses in memory for GET, DELETE, previous_response_id and background. Several API processes, which share no memory, "
        "keep none.",
        environment=("VLLM_ENABLE_RESPONSES_API_STORE",),
    )
    max_stored_responses: int = option(10_000, "Responses kept; one more drops that which was not used for the longest time.", ge=1)
    max_stored_response_bytes: int = option(
        256 * 1024**2, "Bytes of all responses kept, each with its conversation as JSON; more drop likewise.", ge=1024, human=True
    )
    stored_response_ttl: float = option(86_400.0, "Seconds for which a response is kept.", gt=0)
    max_background_responses: int = option(256, "Background responses that run at a time; one more is answered 503 with Retry-After.", ge=1)

    @property
    def has_asked_for_store(self) -> bool:
        """Whether somebody wants it, beside the default."""
        return self.enable_responses_store and "enable_responses_store" in self.model_fields_set


def responses_warnings(responses: ResponsesConfig, num_api_processes: int) -> list[str]:
    if num_api_processes == 1 or not responses.has_asked_for_store:
        return []
    return [
        f"--enable-responses-store has no effect with --api-server-count {num_api_processes}: a response would be kept by the process that "
        "gave it, where the next request may not come"
    ]


def stores_responses(responses: ResponsesConfig, num_api_processes: int) -> bool:
    """Whether responses are kept: what is kept in one API process can't be found by a request that another one gets."""
    return responses.enable_responses_store and num_api_processes == 1
