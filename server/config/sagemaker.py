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
    sessions_expiration: int = option(
        1200, "Seconds after which a session ends, counted from its opening.", ge=1, environment=("SAGEMAKER_SESSIONS_EXPIRATION",)
    )
    max_sessions: int = option(10_000, "Sessions that may be open at a time; one more is refused.", ge=1)
    enable_custom_handlers: bool = option(
        False, "Run the Python code in --custom-script: own handlers for /ping and /invocations. The script can do all that the server can."
    )
    custom_script: str | None = option(
        None,
        "The script with custom handlers: a path, or a name to look for in --custom-script-directory and in its code/. Default: model.py.",
        environment=("CUSTOM_SCRIPT_FILENAME",),
        location=True,
    )
    custom_script_directory: str = option(
        "/opt/ml/model",
        "Where --custom-script and the files of custom handlers are looked for.",
        environment=("SAGEMAKER_MODEL_PATH",),
        location=True,
    )
    custom_ping_handler: str | None = option(
        None,
        "What answers /ping once the server is ready: file.py:function, model:function (of --custom-script), package.module:function "
        "or a /route of this server.",
        environment=("CUSTOM_FASTAPI_PING_HANDLER",),
    )
    custom_invocation_handler: str | None = option(
        None, "What answers /invocations; spelled as --custom-ping-handler.", environment=("CUSTOM_FASTAPI_INVOCATION_HANDLER",)
    )
    custom_throttle_middleware: str | None = option(
        None,
        "A function (request, call_next) or an ASGI class around every route, behind the API key: file.py:name and so on.",
        environment=("CUSTOM_FASTAPI_MIDDLEWARE_THROTTLE",),
    )
    custom_pre_post_process_middleware: str | None = option(
        None,
        "The same, inside of --custom-throttle-middleware. Wins over --custom-pre-process and --custom-post-process.",
        environment=("CUSTOM_FASTAPI_MIDDLEWARE_PRE_POST_PROCESS",),
    )
    custom_pre_process: str | None = option(
        None, "A function that gets every request before its handler and may return it changed.", environment=("CUSTOM_PRE_PROCESS",)
    )
    custom_post_process: str | None = option(
        None, "A function that gets every response and may return it changed.", environment=("CUSTOM_POST_PROCESS",)
    )
    batch_strategy: Literal["MULTI_RECORD", "SINGLE_RECORD"] = option(
        "MULTI_RECORD", "What /execution-parameters tells a batch transform job.", environment=("SAGEMAKER_BATCH_STRATEGY",)
    )
    max_concurrent_transforms: int | None = option(
        None,
        "Requests at a time that /execution-parameters tells a batch transform job to send. Default: --max-num-seqs.",
        ge=1,
        environment=("SAGEMAKER_MAX_CONCURRENT_TRANSFORMS",),
    )
