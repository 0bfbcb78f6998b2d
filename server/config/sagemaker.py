"""Options of the SageMaker hosting contract beyond /ping and /invocations."""

from __future__ import annotations

from typing import Literal

from headway.server.config.fields import Topic, option


class SagemakerConfig(Topic):
    """SageMaker."""

    enable_stateful_sessions: bool = option(
        False,
        "Stateful sessions on /invocations: NEW_SESSION, the session header, CLOSE.",
        environment=("SAGEMAKER_ENABLE_STATEFUL_SESSIONS",),
    )
    sessions_expiration: int = option(1200, "Seconds after which a session ends.", ge=1, environment=("SAGEMAKER_SESSIONS_EXPIRATION",))
    enable_custom_handlers: bool = option(
        False, "Run the Python code in --custom-script: own handlers for /ping and /invocations. The script can do all that the server can."
    )
    custom_script: str = option("/opt/ml/model/model.py", "The script with custom handlers; needs --enable-custom-handlers.", location=True)
    batch_strategy: Literal["MULTI_RECORD", "SINGLE_RECORD"] = option(
        "MULTI_RECORD", "What /execution-parameters tells a batch transform job.", environment=("SAGEMAKER_BATCH_STRATEGY",)
    )
    max_concurrent_transforms: int | None = option(
        None,
        "Requests at a time that /execution-parameters tells a batch transform job to send. Default: --max-num-seqs.",
        ge=1,
        environment=("SAGEMAKER_MAX_CONCURRENT_TRANSFORMS",),
    )
