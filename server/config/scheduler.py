"""Options about what runs in a step."""

from __future__ import annotations

from typing import Literal

from headway.server.config.fields import Topic, option


class SchedulerConfig(Topic):
    """Scheduler."""

    max_num_batched_tokens: int | None = option(
        None, "Token budget of one step. Default: 8192 on a GPU of 70 GiB or more, else 2048; 512 on a CPU.", ge=1, human=True
    )
    max_num_seqs: int | None = option(None, "Most requests in one step. Default: 256 on a GPU, 64 on a CPU.", ge=1)
    enable_chunked_prefill: bool = option(True, "Split long prompts over steps, beside running decodes.")
    async_scheduling: bool | None = option(
        None, "Plan and begin a step while the one before it still runs, so that the device never waits. Default: on a GPU."
    )
    max_num_scheduled_tokens: int | None = option(
        None, "Most tokens that are scheduled in one step, below --max-num-batched-tokens, for which memory is set aside.", ge=1, human=True
    )
    max_num_active_seqs: int | None = option(
        None, "Most requests that run at a time, below --max-num-seqs, for which memory is set aside.", ge=1
    )
    watermark: float = option(
        0.0, "Share of the KV blocks that stays free when a request is admitted beside others; lower: more preemptions.", ge=0, lt=1
    )
    long_prefill_token_threshold: int = option(0, "Most tokens of one prompt in a step; 0: no such limit.", ge=0, human=True)
    scheduling_policy: Literal["fcfs", "priority"] = option(
        "fcfs", "Order of waiting requests: by arrival, or by the request's priority (lower first)."
    )
