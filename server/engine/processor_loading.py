"""--logits-processors: a user's classes and functions that change logits, loaded at start, and what each does for one request.

A class works on every request. It has vLLM's shape, without its base class: made with (config, device, is_pin_memory), and either
- ``new_req_logits_processor(params)``: a function of the request as below, or None; ``validate_params(params)`` may refuse it; or
- ``update_state(batch_update)`` and ``apply(logits)``: an object is made for each request, which is its whole batch.
A function, of (output ids, logits) or (prompt ids, output ids, logits), works on the requests that name it. All return the logits.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from headway.server.config.server import ServerConfig
from headway.server.errors import ConfigError
from headway.server.types import ProcessorChoice, SamplingParams
from headway.server.user_modules import UserModules

OPTION = "--logits-processors"
Step = Callable[[Tensor], Tensor]  # logits [V] of a request's next token to changed ones


@dataclass(frozen=True, slots=True)
class RequestView:
    """What a processor knows of its request. ``output_ids`` grows as tokens are generated; it is the processor's to read only."""

    params: SamplingParams
    prompt_ids: list[int]
    output_ids: list[int]


class Processor(Protocol):
    """One that sees every request."""

    def step_for(self, request: RequestView) -> Step | None:
        """Raises ValueError if the request is to blame, anything if the code is."""
        ...


@dataclass(frozen=True, slots=True)
class LoadedProcessors:
    """By the names that the option gives them."""

    for_all: dict[str, Processor] = field(default_factory=dict)
    functions: dict[str, Callable[..., Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BatchUpdate:
    """As in vLLM: ``added`` holds (index, params, prompt ids, output ids)."""

    batch_size: int
    removed: Sequence[int] = ()
    added: Sequence[tuple[int, SamplingParams, list[int], list[int]]] = ()
    moved: Sequence[tuple[int, int, Any]] = ()


def load_processors(config: ServerConfig, device: torch.device) -> LoadedProcessors:
    """Raises ConfigError, with one sentence, for what can't be used."""
    modules = UserModules(Path.cwd(), None)
    loaded = LoadedProcessors()
    for path in config.extension.logits_processors:
        found = modules.function(path, OPTION) if ":" in path else modules.imported(path, OPTION)
        if inspect.isclass(found):
            loaded.for_all[path] = _of_class(path, found, config, device)
        else:
            loaded.functions[path] = found
    return loaded


def chosen_step(functions: dict[str, Callable[..., Any]], choice: ProcessorChoice, request: RequestView) -> Step:
    """Raises ValueError if the choice is to blame, anything if the function is."""
    function = functions.get(choice.name)
    if function is None:
        raise ValueError(f"there is none of this name; there are {', '.join(functions) or 'none'}")
    if choice.args is None and choice.kwargs is None:
        return _step_of(function, request)
    made = function(*(choice.args or ()), **(choice.kwargs or {}))
    if not callable(made):
        raise ValueError(f"called with arguments it must return a function, not {type(made).__name__}")
    return _step_of(made, request)


def _of_class(path: str, found: Callable[..., Any], config: ServerConfig, device: torch.device) -> Processor:
    if hasattr(found, "new_req_logits_processor"):
        try:
            return _AdapterProcessor(found(config, device, False))
        except Exception as error:  # the edge to code that is not ours
            raise ConfigError([f"{OPTION} {path}: it can't be made: {type(error).__name__}: {error}"]) from error
    if hasattr(found, "update_state") and hasattr(found, "apply"):
        return _BatchProcessor(lambda: found(config, device, False))
    raise ConfigError([f"{OPTION} {path}: a class needs new_req_logits_processor(params), or update_state(batch_update) and apply(logits)"])


class _AdapterProcessor:
    """See Processor: one object, which gives each request a function."""

    def __init__(self, adapter: Any) -> None:
        self._adapter = adapter

    def step_for(self, request: RequestView) -> Step | None:
        _validate(self._adapter, request.params)
        function = self._adapter.new_req_logits_processor(request.params)
        return None if function is None else _step_of(function, request)


class _BatchProcessor:
    """See Processor: an object for each request, so that one that fails harms no other."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def step_for(self, request: RequestView) -> Step | None:
        processor = self._make()
        _validate(processor, request.params)
        update: BatchUpdate | None = BatchUpdate(1, added=[(0, request.params, request.prompt_ids, request.output_ids)])

        def step(logits: Tensor) -> Tensor:
            nonlocal update
            processor.update_state(update)
            update = None
            changed: Tensor = processor.apply(logits[None])
            return changed[0]

        return step


def _validate(processor: Any, params: SamplingParams) -> None:
    if validate := getattr(processor, "validate_params", None):
        validate(params)


def _step_of(function: Callable[..., Any], request: RequestView) -> Step:
    if len(inspect.signature(function).parameters) == 3:
        return lambda logits: function(request.prompt_ids, request.output_ids, logits)
    return lambda logits: function(request.output_ids, logits)
