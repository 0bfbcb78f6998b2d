"""What a request tells the logits processors that the server was started with."""

from __future__ import annotations

from headway.server.api.protocol.base import GenerationFields
from headway.server.api.protocol.choosing import ProcessorCall
from headway.server.errors import RequestError
from headway.server.types import EngineInfo, ProcessorChoice
from headway.server.words import cut, first_few


def check_processors(request: GenerationFields, info: EngineInfo) -> None:
    """Raises RequestError for what no processor of this server would hear of."""
    if request.vllm_xargs and not info.reads_extra_args:
        raise RequestError(
            "vllm_xargs is read by logits processors, and this server has no class of them (--logits-processors).", "vllm_xargs"
        )
    for index, choice in enumerate(processor_choices(request)):
        if choice.name not in info.processor_names:
            known = f"it has {first_few(info.processor_names)}" if info.processor_names else "it has none"
            raise RequestError(
                f"logits_processors.{index} names {cut(choice.name, 100)!r}, which this server was not started with "
                f"(--logits-processors); {known}.",
                f"logits_processors.{index}",
            )


def processor_choices(request: GenerationFields) -> tuple[ProcessorChoice, ...]:
    return tuple(item.choice if isinstance(item, ProcessorCall) else ProcessorChoice(item) for item in request.logits_processors)
