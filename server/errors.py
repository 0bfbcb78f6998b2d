"""Errors with typed fields that every room may raise. Nothing here knows HTTP; api/errors.py maps them."""

from __future__ import annotations

import errno
from typing import Literal, get_args

# What a request that found no room was refused for, as metrics name it.
QueueLimit = Literal["max_num_queued_reqs", "max_num_queued_tokens", "max_loras", "queue_timeout", "max_background_responses"]
QUEUE_LIMITS: tuple[QueueLimit, ...] = get_args(QueueLimit)


class HeadwayError(Exception):
    """Base of all errors that we raise on purpose. ``str()`` is one clear sentence for the user."""


class ConfigError(HeadwayError):
    """Options that can't be used: one line a problem. The process exits with status 2."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class ModelSourceError(HeadwayError):
    """The model could not be found, fetched or understood: says what was looked for and where."""


class RequestError(HeadwayError):
    """A request that can't be served as it stands; ``param`` names the field at fault."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ModelNotFound(RequestError):
    """The request names a model that is not served here."""


class ResponseNotFound(RequestError):
    """No such response is kept, or not for whoever asks. ``code`` is OpenAI's word for it, where there is one."""

    def __init__(self, message: str, param: str, code: str | None = None) -> None:
        super().__init__(message, param)
        self.code = code


class AdapterError(RequestError):
    """An adapter that can't be loaded, or not as asked: says why."""


class AdapterNotFound(ModelNotFound):
    """No adapter of that name is registered, or nothing is where it should be read from."""


class AdapterExists(RequestError):
    """The name is taken."""


class AdaptersFull(HeadwayError):
    """Every slot for adapters is held by a pinned one."""


class QueueFull(HeadwayError):
    """There is no room now; try again after ``retry_after_s`` seconds. ``reason`` names what is full."""

    def __init__(self, message: str, retry_after_s: int, reason: QueueLimit) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.reason = reason


class QueueTimedOut(QueueFull):
    """The request was admitted and waited for --queue-timeout without being scheduled."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message, retry_after_s, "queue_timeout")


class RequestTimedOut(HeadwayError):
    """The request did not end within its time limit, and was ended."""


class EngineNotReady(HeadwayError):
    """The engine is still starting; ``phase`` says what it is doing."""

    def __init__(self, phase: str) -> None:
        super().__init__(f"The model is not ready yet: {phase}.")
        self.phase = phase


class EngineDead(HeadwayError):
    """The engine has stopped for good; ``cause`` is the first cause, in one sentence."""

    def __init__(self, cause: str) -> None:
        super().__init__(f"The engine has stopped: {cause}")
        self.cause = cause


class RankDied(HeadwayError):
    """A process of those that compute the model together is gone, or out of step with the others: the engine can't go on."""


class EngineAsleep(HeadwayError):
    """The engine takes no requests until it is woken."""

    def __init__(self, level: int) -> None:
        super().__init__(f"The server is asleep at level {level} and takes no requests until it is woken (POST /wake_up).")


class AbortedBySleep(HeadwayError):
    """The engine was told to sleep without waiting for the request."""


class SleepConflict(HeadwayError):
    """The engine's sleep is not in a state in which it could be changed as asked."""


class SleepFailed(HeadwayError):
    """The engine could not be put to sleep or woken: says why."""


class ServerDraining(HeadwayError):
    """The server is shutting down and takes no new work."""


class NoServerAvailable(HeadwayError):
    """Of a router: none of its servers takes a request now."""


class ServerLost(HeadwayError):
    """Of a router: the server that it gave the request to has not answered to the end."""


def sentence_of(problem: BaseException) -> str:
    """What an exception means to whoever runs the server, in one sentence: the last line of a log and the reason on /ping."""
    if isinstance(problem, HeadwayError):
        return str(problem)
    text = next(iter(str(problem).strip().splitlines()), "")[:300]
    named = f"{type(problem).__name__}: {text}" if text else type(problem).__name__
    if isinstance(problem, MemoryError) or "out of memory" in text.lower() or "can't allocate memory" in text:
        return (
            f"out of memory ({named[:200]}); lower --gpu-memory-utilization or --kv-cache-memory-bytes, --max-num-seqs or "
            "--max-num-batched-tokens, or use a larger machine"
        )
    if isinstance(problem, ImportError):
        return f"the installation is incomplete or broken ({named}); use the image as it was built, or install the package again"
    if isinstance(problem, OSError) and problem.errno == errno.ENOSPC:
        return f"the disk is full ({named}); free space, or set HEADWAY_CACHE, HF_HOME or TMPDIR to a place that has some"
    return named
