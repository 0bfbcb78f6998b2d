"""Options about the start."""

from __future__ import annotations

from headway.server.config.fields import Topic, option


class StartConfig(Topic):
    """Start."""

    fail_on_environ_validation: bool = option(
        False, "End the start with an error where a VLLM_* variable has no effect here, in place of a warning that names it."
    )
    use_tqdm_on_load: bool = option(True, "Log how far the download of a model is.")
