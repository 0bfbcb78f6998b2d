"""How a user's function is called: in a thread unless it is async, its result as a response, its refusals in our form."""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable
from typing import Any

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi.encoders import jsonable_encoder
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from headway.server.api.deps import Handler
from headway.server.api.errors import ClientDisconnected, error_response, response_to
from headway.server.errors import ConfigError, HeadwayError

Function = Callable[..., Any]

# Threads for one function. Each has its own, so that invocations that block leave a custom /ping what it needs.
_MAX_THREADS = 40


class UserFunction:
    """A function of the user's, to be called with ``num_arguments`` or, if it takes none, without."""

    def __init__(self, function: Function, parameters: str, option: str) -> None:
        """``parameters`` as in "request, call_next". Raises ConfigError that names ``option`` for a function that can't be called so."""
        self.is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
        self._function = function
        self._takes_nothing = not accepts(function, parameters.count(",") + 1)
        if self._takes_nothing and not accepts(function, 0):
            name = getattr(function, "__qualname__", repr(function))
            raise ConfigError([f"{option}: {name} must take ({parameters}), it takes {inspect.signature(function)}"])
        self._limiter = CapacityLimiter(_MAX_THREADS)

    async def __call__(self, *arguments: Any) -> Any:
        given = () if self._takes_nothing else arguments
        if self.is_async:
            return await self._function(*given)
        result = await anyio.to_thread.run_sync(self._function, *given, limiter=self._limiter, abandon_on_cancel=True)
        return await result if inspect.isawaitable(result) else result


def as_handler(function: UserFunction) -> Handler:
    """Raises, beside what Starlette's handlers raise, whatever the function does: the outermost middleware logs it and answers 500."""

    async def call(http: Request) -> Response:
        return await in_our_form(_answer(function, http))

    return call


async def in_our_form(work: Awaitable[Response]) -> Response:
    """The response of ``work``, or the refusal that it raised."""
    try:
        return await work
    except HTTPException as error:
        text = error.detail if isinstance(error.detail, str) else json.dumps(error.detail, default=str)
        return error_response(error.status_code, text, headers=error.headers)
    except ClientDisconnect:
        return response_to(ClientDisconnected("The client left while it sent its request."))
    except HeadwayError as error:
        return response_to(error)


async def _answer(function: UserFunction, http: Request) -> Response:
    result = await function(http)
    return result if isinstance(result, Response) else JSONResponse(jsonable_encoder(result))


def accepts(function: Function, num_arguments: int) -> bool:
    """Whether it can be called with so many."""
    try:
        inspect.signature(function).bind(*[None] * num_arguments)
    except TypeError:
        return False
    except ValueError:
        return True  # written in C: it does not tell
    return True
