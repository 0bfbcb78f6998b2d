"""Options about speculative decoding."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from headway.server.config.fields import Topic, option
from headway.server.config.json_problems import key_of, sentence_of

_NGRAM_NAMES = ("ngram", "[ngram]")  # as vLLM's users write it, in ``method`` or in ``model``
_MODEL_METHODS = ("draft_model", "eagle", "eagle3")  # by which another model drafts
_METHODS = ("ngram", *_MODEL_METHODS)
_OTHER_METHODS = ("medusa", "mlp_speculator", "mtp", "suffix")
_LONGEST, _SHORTEST = 5, 2  # of what is looked up, where it is not said
_ONLY_OF = {"model": _MODEL_METHODS, "revision": _MODEL_METHODS, "prompt_lookup_max": ("ngram",), "prompt_lookup_min": ("ngram",)}
_OF_VLLM = (  # members that it takes and Headway does not
    *("code_revision", "disable_by_batch_size", "disable_padded_drafter_batch", "draft_load_config", "draft_tensor_parallel_size"),
    *("enforce_eager", "max_model_len", "parallel_drafting", "quantization", "rejection_sample_method"),
    *("speculative_token_tree", "suffix_decoding_max_cached_requests", "suffix_decoding_max_tree_depth", "tensor_parallel_size"),
)


class SpeculativeSettings(BaseModel):
    """The JSON of --speculative-config, checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    method: Literal["ngram", "draft_model", "eagle", "eagle3"]
    num_speculative_tokens: int = Field(ge=1, le=32)
    model: str | None = None  # that drafts
    revision: str | None = None  # of that model on the Hub
    prompt_lookup_max: int | None = Field(default=None, ge=1, le=64)
    prompt_lookup_min: int | None = Field(default=None, ge=1, le=64)

    @property
    def lookup_lengths(self) -> tuple[int, int]:
        """(shortest, longest) end of a text that is looked up in it; one that is given bounds the default of the other."""
        longest, shortest = self.prompt_lookup_max, self.prompt_lookup_min
        if longest is None:
            longest = max(_LONGEST, shortest or 0)
        return min(_SHORTEST, longest) if shortest is None else shortest, longest


class SpeculativeConfig(Topic):
    """Speculative decoding."""

    speculative_config: dict[str, Any] = option(
        {},
        "JSON: guess tokens ahead of each request and verify them in one step: see speculative.md. `method` (ngram: what followed the same "
        "words before; draft_model: a small model's; eagle, eagle3: those of a head that was trained for this model), "
        "`num_speculative_tokens` (most guesses of a request in a step), `model` and `revision` (which drafts), `prompt_lookup_max` and "
        "`prompt_lookup_min` (how many tokens are looked up).",
        short=("-sc",),
    )

    @property
    def settings(self) -> SpeculativeSettings | None:
        """None: nothing is guessed. To be asked once ``speculative_problems`` has found nothing."""
        return SpeculativeSettings.model_validate(_plain(self.speculative_config)) if self.speculative_config else None

    @property
    def num_drafts(self) -> int:
        """Most guesses of a request in a step."""
        return 0 if self.settings is None else self.settings.num_speculative_tokens

    @property
    def asks_for_draft_model(self) -> bool:
        """Or for a head; whatever else is wrong with the JSON."""
        return _plain(self.speculative_config).get("method") in _MODEL_METHODS


def speculative_problems(speculative: SpeculativeConfig) -> list[str]:
    """A sentence for each thing that can't be served."""
    asked = speculative.speculative_config
    if not asked:
        return []
    found = _method_problems(_plain(asked))
    if found:
        return [f"--speculative-config: {sentence}" for sentence in found]
    try:
        shortest, longest = SpeculativeSettings.model_validate(_plain(asked)).lookup_lengths
    except ValidationError as problem:
        # A key that is unknown may be meant for one that is missing.
        unknown = [error for error in problem.errors() if error["type"] == "extra_forbidden"]
        return [f"--speculative-config: {_sentence(error)}" for error in unknown or problem.errors()]
    if shortest > longest:
        return [f"--speculative-config: prompt_lookup_min {shortest} is above prompt_lookup_max {longest}: lower the first"]
    return []


def _plain(asked: dict[str, Any]) -> dict[str, Any]:
    """With ``method`` where the method stands in ``model``, or follows from it."""
    named = [asked[key] for key in ("method", "model") if key in asked]
    rest = {key: value for key, value in asked.items() if key not in ("method", "model")}
    if named and all(name in _NGRAM_NAMES for name in named):
        return {"method": "ngram", **rest}
    return {"method": "draft_model", **asked} if "model" in asked else asked


def _method_problems(asked: dict[str, Any]) -> list[str]:
    method, spare = asked.get("method"), "set it to ngram, or to draft_model, eagle or eagle3 with a model"
    is_known = asked.keys() <= {*SpeculativeSettings.model_fields, *_OF_VLLM}  # else a key may be meant for one that is missing
    if method in _OTHER_METHODS:
        return [f"method {method!r} is not supported by this version of Headway: {spare}"]
    if method is None:
        return [f"method is missing: {spare}"] if is_known else []
    if method not in _METHODS:
        return [f"method must be one of {', '.join(_METHODS)}, got {method!r}"]
    if method in _MODEL_METHODS and not asked.get("model") and is_known:
        what = "the small model that drafts, as --model would name it" if method == "draft_model" else "the head's files, as --model would"
        return [f"model is missing: name {what}"]
    strange = [key for key in asked if method not in _ONLY_OF.get(key, _METHODS)]
    return [f"{key} is for method {' or '.join(_ONLY_OF[key])}, and this one is {method}: leave it out" for key in strange]


def _sentence(error: Any) -> str:
    if error["type"] == "extra_forbidden" and key_of(error) in _OF_VLLM:
        return f"{key_of(error)!r} has no meaning here: leave it out"
    return sentence_of(error, SpeculativeSettings)
