"""Which fields go with beam search: it looks for the most likely sequences of the model's own distribution."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from headway.server.errors import RequestError

# What draws, changes logits or looks at text has no meaning there: field -> values, beside empty ones, that ask for nothing.
_WITHOUT_MEANING: dict[str, tuple[Any, ...]] = {
    "temperature": (0, 1),
    "top_p": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": (),
    "stop": (),
    "allowed_token_ids": (),
    "bad_words": (),
    "logprob_token_ids": (),
    "repetition_detection": (),
    "logits_processors": (),
    "vllm_xargs": (),
    "thinking_token_budget": (-1,),
    "best_of": (),
    "stream": (False,),
}


def check_beam_search(request: BaseModel) -> None:
    """Raises RequestError."""
    for name in request.model_fields_set & _WITHOUT_MEANING.keys():
        value = getattr(request, name)
        if value not in _WITHOUT_MEANING[name] and value not in ([], {}, "", None):
            raise RequestError(f"{name} does not go with beam search: leave it out, or use_beam_search.", name)
