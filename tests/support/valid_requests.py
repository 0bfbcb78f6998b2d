"""Random requests that the documentation allows, over all routes that generate or pool: mostly answered, in any combination of fields."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Body = dict[str, Any]
NUM_TOKENS = 264  # ids below are tokens of every model that such requests are sent to

_TEXTS = (
    "hello",
    "The capital of France is",
    "é😀\u2028 \u200d",
    "a\r\n\r\n\tb",
    '{"a": [1, 2',
    "\x00\x7f",
    " ",
    "<|end|>",
    "data: [DONE]\n\n",
    "x " * 12,
)
_NAMES = ("get_weather", "f", "set-time_2", "Z-9", "a" * 60)


@dataclass(frozen=True, slots=True)
class Asked:
    """``schema``: what a whole text of the answer is JSON of."""

    path: str
    body: Body
    schema: Body | None = None

    @property
    def is_stream(self) -> bool:
        return self.body.get("stream") is True


class _Drawing:
    """``body`` gets fields with ``maybe``; each is a function, so that a field that is left out draws nothing."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.body: Body = {}
        self.schema: Body | None = None

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def maybe(self, share: float, **fields: Callable[[], Any]) -> None:
        for name, value in fields.items():
            if self.chance(share):
                self.body[name] = value()

    def text(self) -> str:
        return " ".join(self.rng.choices(_TEXTS, k=self.rng.randint(1, 3)))

    def ids(self, fewest: int = 1, most: int = 8) -> list[int]:
        return [self.rng.randrange(NUM_TOKENS) for _ in range(self.rng.randint(fewest, most))]

    def several(self, draw: Callable[[], Any], most: int = 3) -> list[Any]:
        return [draw() for _ in range(self.rng.randint(1, most))]

    def number(self, low: float, high: float) -> float:
        return self.rng.choice((low, high, round(self.rng.uniform(low, high), 3)))


def random_schema(rng: random.Random, depth: int = 0) -> Body:
    """Of a value whose JSON is short."""
    kinds = ["boolean", "null", "integer", "number", "string", "enum", "const"] + (["object", "array", "anyOf"] * 2 if depth < 2 else [])
    match rng.choice(kinds):
        case "enum":
            return {"enum": rng.sample(["a", "b", 1, None, True, "é"], rng.randint(1, 3))}
        case "const":
            return {"const": rng.choice(["x", 0, False])}
        case "string":
            return {"type": "string", **rng.choice([{"maxLength": 4}, {"pattern": "^[a-c]{1,3}$"}, {"enum": ["u", "v"]}])}
        case "integer":
            return {"type": "integer", "minimum": 0, "maximum": rng.choice([1, 99])}
        case "array":
            return {"type": "array", "items": random_schema(rng, depth + 1), "maxItems": rng.randint(0, 2)}
        case "object":
            return object_schema(rng, depth + 1)
        case "anyOf":
            return {"anyOf": [random_schema(rng, depth + 1) for _ in range(2)]}
        case kind:
            return {"type": kind}


def object_schema(rng: random.Random, depth: int = 0) -> Body:
    names = rng.sample(["city", "unit", "n", "über", "a b"], rng.randint(0, 3))
    schema: Body = {"type": "object", "properties": {name: random_schema(rng, depth) for name in names}}
    if rng.random() < 0.7:
        schema["required"] = rng.sample(names, rng.randint(0, len(names)))
    if rng.random() < 0.8:
        schema["additionalProperties"] = False
    return schema


def _sampling(of: _Drawing) -> None:
    rng = of.rng
    of.maybe(0.3, temperature=lambda: of.number(0, 2), top_p=lambda: of.number(0.01, 1), top_k=lambda: rng.choice((-1, 0, 1, 5, 10**6)))
    of.maybe(0.15, min_p=lambda: of.number(0, 1), seed=lambda: rng.choice((-1, 0, 7, 2**63 - 1)), ignore_eos=lambda: of.chance(0.7))
    of.maybe(0.12, presence_penalty=lambda: of.number(-2, 2), frequency_penalty=lambda: of.number(-2, 2))
    of.maybe(0.12, repetition_penalty=lambda: of.number(0.1, 10), skip_special_tokens=lambda: of.chance(0.5))
    of.maybe(0.12, logit_bias=lambda: {str(token): of.number(-100, 100) for token in of.ids()})
    of.maybe(0.12, stop=lambda: rng.choice((of.text(), ["a", "b"], "", [])), stop_token_ids=lambda: of.ids(0))
    of.maybe(0.1, bad_words=lambda: of.several(lambda: rng.choice(("a", " the", "bad word", "é"))))
    of.maybe(0.05, allowed_token_ids=lambda: of.ids(2, 60), logprob_token_ids=of.ids)
    of.maybe(0.1, repetition_detection=lambda: {"max_pattern_size": rng.randint(1, 9), "min_count": rng.randint(2, 4)})
    of.maybe(0.1, truncate_prompt_tokens=lambda: rng.choice((-1, 1, 5, 200)), truncation_side=lambda: rng.choice(("left", "right")))
    of.maybe(0.1, include_stop_str_in_output=lambda: True, spaces_between_special_tokens=lambda: False, cache_salt=lambda: "salt")
    of.maybe(
        0.1, priority=lambda: rng.randint(-9, 9), timeout=lambda: rng.choice((0.002, 60, 60, 60)), stream_interval=lambda: rng.randint(1, 9)
    )
    of.maybe(0.05, user=of.text, metadata=lambda: {"a": "b"}, request_id=lambda: f"mine-{rng.random()}")


def _generation(of: _Drawing, max_tokens: str) -> None:
    rng = of.rng
    _sampling(of)
    of.body[max_tokens] = rng.randint(1, 24)
    of.maybe(0.08, min_tokens=lambda: rng.randint(0, of.body[max_tokens]))
    of.maybe(0.3, n=lambda: rng.randint(1, 3))
    of.maybe(
        0.1, return_token_ids=lambda: True, return_tokens_as_token_ids=lambda: True, return_prompt_text=lambda: True, echo=lambda: True
    )
    if of.chance(0.5):
        of.body["stream"] = True
        of.maybe(0.4, stream_options=lambda: {"include_usage": True, "continuous_usage_stats": of.chance(0.5)})
    else:
        of.maybe(0.15, prompt_logprobs=lambda: rng.randint(0, 5))


def _constrain(of: _Drawing) -> None:
    """By at most one of the many ways."""
    rng = of.rng
    schema = random_schema(rng)
    ways: list[tuple[Body, Any]] = [
        ({"response_format": {"type": "json_object"}}, {"type": "object"}),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}, schema),
        ({"structured_outputs": {"json": schema, "disable_any_whitespace": of.chance(0.5)}}, schema),
        ({"structured_outputs": {"regex": rng.choice(("[ab]{1,5}", "(yes|no)", r"\d{3}-\d{2}"))}}, None),
        ({"structured_outputs": {"choice": ["one", "two", "drei é"]}}, None),
        ({"structured_outputs": {"grammar": 'start: "a" | "b" start'}}, None),
        ({"guided_json": schema}, schema),
        ({"guided_choice": ["x", "xy"]}, None),
        ({"response_format": {"type": "text"}}, None),
    ]
    fields, of.schema = rng.choice(ways)
    of.body |= fields
    for name in (
        "allowed_token_ids",
        "bad_words",
        "logit_bias",
        "stop",
        "stop_token_ids",
        "min_tokens",
        "ignore_eos",
        "echo",
        "skip_special_tokens",
    ):
        of.body.pop(name, None)
    of.body["max_tokens"] = rng.choice((3, 60))


def _beams(of: _Drawing) -> None:
    keep = {"prompt", "messages", "max_tokens", "n", "ignore_eos", "model", "priority", "cache_salt", "return_token_ids", "logprobs"}
    for name in of.body.keys() - keep:
        del of.body[name]
    of.body["use_beam_search"] = True
    of.maybe(0.5, length_penalty=lambda: of.number(-2, 2))


def completion(rng: random.Random) -> Asked:
    of = _Drawing(rng)
    of.body["prompt"] = rng.choice((of.text, of.ids, lambda: of.several(of.text), lambda: of.several(of.ids)))()
    _generation(of, "max_tokens")
    of.maybe(0.2, logprobs=lambda: rng.randint(0, 5), add_special_tokens=lambda: of.chance(0.5))
    if of.chance(0.15):
        _constrain(of)
    elif of.chance(0.12):
        _beams(of)
    elif not of.body.get("stream"):
        of.maybe(0.15, best_of=lambda: of.body.get("n", 1) + rng.randint(0, 2))
    if of.body.get("echo") and of.chance(0.3):
        of.body["max_tokens"] = 0
        of.body.pop("min_tokens", None)
    return Asked("/v1/completions", of.body, of.schema)


def _messages(of: _Drawing) -> list[Body]:
    rng = of.rng
    content = lambda: of.text() if of.chance(0.7) else [{"type": "text", "text": text} for text in of.several(of.text)]  # noqa: E731
    found: list[Body] = [{"role": "system", "content": content()}] if of.chance(0.2) else []
    for _ in range(rng.randint(0, 2)):
        found.append({"role": "user", "content": content()})
        if of.chance(0.3):
            call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
            found += [{"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c1", "content": "42"}]
        found.append({"role": "assistant", "content": content()})
    return [*found, {"role": "user", "content": content()}]


def _tools(of: _Drawing) -> list[Body]:
    return [
        {"name": name, "description": of.text(), "parameters": object_schema(of.rng)}
        for name in of.rng.sample(_NAMES, of.rng.randint(1, 3))
    ]


def chat(rng: random.Random) -> Asked:
    of = _Drawing(rng)
    of.body["messages"] = _messages(of)
    _generation(of, rng.choice(("max_tokens", "max_completion_tokens")))
    if of.chance(0.2):
        of.body |= {"logprobs": True, "top_logprobs": rng.randint(0, 5)}
    of.maybe(0.1, include_reasoning=lambda: False, reasoning_effort=lambda: rng.choice(("none", "low", "high")))
    of.maybe(0.1, add_special_tokens=lambda: True, chat_template_kwargs=lambda: {"x": 1}, continue_final_message=lambda: True)
    if of.chance(0.35):
        tools = _tools(of)
        of.body["tools"] = [{"type": "function", "function": tool} for tool in tools]
        named = {"type": "function", "function": {"name": tools[-1]["name"]}}
        of.maybe(0.8, tool_choice=lambda: rng.choice(("none", "auto", "required", named)))
        of.maybe(0.3, parallel_tool_calls=lambda: False)
        if of.body.get("tool_choice") in ("required", named):
            for name in ("allowed_token_ids", "bad_words", "logit_bias", "stop", "stop_token_ids", "min_tokens", "ignore_eos"):
                of.body.pop(name, None)
            of.body["max_tokens"] = of.body["max_completion_tokens"] = rng.choice((5, 80))
    elif of.chance(0.2):
        of.body.pop("max_completion_tokens", None)
        _constrain(of)
    elif of.chance(0.1):
        of.body["max_tokens"] = of.body.pop("max_completion_tokens", 8)
        _beams(of)
    return Asked("/v1/chat/completions", of.body, of.schema)


def responses(rng: random.Random) -> Asked:
    of = _Drawing(rng)

    def item() -> Body:
        kind = "input_text"
        content = of.text() if of.chance(0.6) else [{"type": kind, "text": of.text()}]
        return {"role": rng.choice(("user", "system", "developer")), "content": content}

    calls: list[Body] = [
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "42"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
    ]
    of.body["input"] = of.text() if of.chance(0.5) else [*of.several(item), *(calls if of.chance(0.3) else []), item()]
    _generation(of, "max_output_tokens")
    for name in ("n", "echo", "prompt_logprobs", "return_token_ids", "return_prompt_text", "logprob_token_ids"):
        of.body.pop(name, None)
    of.maybe(0.2, instructions=of.text, store=lambda: of.chance(0.5), truncation=lambda: rng.choice(("auto", "disabled")))
    of.maybe(0.1, reasoning=lambda: {"effort": "low", "summary": "auto"}, max_tool_calls=lambda: 3, service_tier=lambda: "auto")
    if of.chance(0.2):
        of.body |= {"include": ["message.output_text.logprobs"], "top_logprobs": rng.randint(0, 5)}
    if of.body.get("stream_options"):
        of.body["stream_options"].pop("continuous_usage_stats", None)
    if of.body.get("store") is not False and not of.body.get("stream"):
        of.maybe(0.1, background=lambda: True)
    if of.chance(0.3):
        tools = _tools(of)
        of.body["tools"] = [{"type": "function", **tool} for tool in tools]
        named = {"type": "function", "name": tools[0]["name"]}
        allowed = {"type": "allowed_tools", "mode": rng.choice(("auto", "required")), "tools": [named]}
        of.maybe(0.7, tool_choice=lambda: rng.choice(("none", "auto", "required", named, allowed)))
    elif of.chance(0.25):
        of.schema = object_schema(rng)
        of.body["text"] = {"format": {"type": "json_schema", "name": "n", "schema": of.schema}}
    if of.schema or of.body.get("tool_choice") not in (None, "none", "auto"):
        for name in ("allowed_token_ids", "bad_words", "logit_bias", "stop", "stop_token_ids", "min_tokens", "ignore_eos"):
            of.body.pop(name, None)
        of.body["max_output_tokens"] = rng.choice((5, 80))
    return Asked("/v1/responses", of.body, of.schema)


def messages(rng: random.Random) -> Asked:
    of = _Drawing(rng)
    text = lambda: {"type": "text", "text": of.text()}  # noqa: E731
    content = lambda: of.text() if of.chance(0.6) else of.several(text)  # noqa: E731
    turns: list[Body] = [{"role": "user", "content": content()}]
    if of.chance(0.3):
        call = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}
        turns += [
            {"role": "assistant", "content": [text(), call]},
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "t1", "content": rng.choice((of.text(), [text()]))}, text()],
            },
        ]
    elif of.chance(0.3):
        turns += [{"role": "assistant", "content": content()}, {"role": "user", "content": content()}]
    of.body["messages"] = turns
    is_count = of.chance(0.15)
    of.maybe(0.3, system=content)
    if of.chance(0.35):
        tools = _tools(of)
        of.body["tools"] = [
            {"name": tool["name"], "description": tool["description"], "input_schema": tool["parameters"]} for tool in tools
        ]
        choices: tuple[Body, ...] = ({"type": "auto"}, {"type": "any"}, {"type": "none"}, {"type": "tool", "name": tools[0]["name"]})
        of.maybe(0.7, tool_choice=lambda: rng.choice(choices))
    elif of.chance(0.2):
        of.schema = object_schema(rng)
        form = {"type": "json_schema", "schema": of.schema}
        of.body |= rng.choice(({"output_format": form}, {"output_config": {"format": form}}))
    if is_count:
        return Asked("/v1/messages/count_tokens", of.body)
    of.body["max_tokens"] = rng.choice((3, 20, 80))
    of.maybe(0.25, temperature=lambda: of.number(0, 2), top_p=lambda: of.number(0.01, 1), top_k=lambda: rng.randint(-1, 9))
    of.maybe(0.15, seed=lambda: rng.randrange(99), priority=lambda: 1, metadata=lambda: {"user_id": "u"}, service_tier=lambda: "auto")
    of.maybe(
        0.1, thinking=lambda: rng.choice(({"type": "disabled"}, {"type": "adaptive"})), timeout=lambda: rng.choice((0.002, 60, 60, 60))
    )
    if of.schema is None:
        of.maybe(0.2, stop_sequences=lambda: of.several(of.text))
    of.maybe(0.5, stream=lambda: True)
    return Asked("/v1/messages", of.body, of.schema)


def invocation(rng: random.Random) -> Asked:
    asked = rng.choice((chat, completion))(rng)
    return Asked("/invocations", asked.body, asked.schema)


def tokenized(rng: random.Random) -> Asked:
    of = _Drawing(rng)
    match rng.randrange(4):
        case 0:
            return Asked("/detokenize", {"tokens": of.ids(0)})
        case 1:
            return Asked("/v1/responses/input_tokens", {"input": of.text(), "instructions": of.text()})
        case 2:
            return Asked("/tokenize", {"messages": _messages(of), "return_token_strs": of.chance(0.5)})
        case _:
            return Asked("/tokenize", {"prompt": of.text(), "return_token_strs": of.chance(0.5)})


def _pooling(of: _Drawing) -> None:
    rng = of.rng
    of.maybe(0.15, truncate_prompt_tokens=lambda: rng.choice((-1, 1, 4, 100)), truncation_side=lambda: rng.choice(("left", "right")))
    of.maybe(
        0.15, use_activation=lambda: of.chance(0.5), priority=lambda: rng.randint(-5, 5), timeout=lambda: rng.choice((0.002, 60, 60, 60))
    )
    of.maybe(0.1, user=of.text, cache_salt=lambda: "salt", request_id=lambda: f"mine-{rng.random()}")


def _inputs(of: _Drawing) -> None:
    if of.chance(0.1):
        of.body["messages"] = [{"role": "user", "content": of.text()}]
    else:
        of.body["input"] = of.rng.choice((of.text, of.ids, lambda: of.several(of.text, 9), lambda: of.several(of.ids, 9)))()
    of.maybe(0.1, add_special_tokens=lambda: of.chance(0.5))


def _vectors(of: _Drawing) -> None:
    rng = of.rng
    if of.chance(0.4):
        of.body["encoding_format"] = "base64"
        of.maybe(0.5, embed_dtype=lambda: rng.choice(("float32", "float16", "bfloat16")), endianness=lambda: rng.choice(("big", "little")))


def embedding(rng: random.Random) -> Asked:
    of = _Drawing(rng)
    _inputs(of)
    _pooling(of)
    _vectors(of)
    return Asked("/v1/embeddings" if "messages" in of.body or of.chance(0.7) else "/invocations", of.body)


def _pooled(rng: random.Random, tasks: tuple[str, ...]) -> Asked:
    of = _Drawing(rng)
    _inputs(of)
    _pooling(of)
    _vectors(of)
    of.maybe(0.7, task=lambda: rng.choice(tasks))
    return Asked("/pooling", of.body)


def pooled_vectors(rng: random.Random) -> Asked:
    return _pooled(rng, ("embed", "token_embed"))


def pooled_labels(rng: random.Random) -> Asked:
    return _pooled(rng, ("classify",))


def classified(rng: random.Random) -> Asked:
    of = _Drawing(rng)
    _inputs(of)
    _pooling(of)
    return Asked("/classify", of.body)


def scored(rng: random.Random) -> Asked:
    of = _Drawing(rng)
    first, second = rng.choice((("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")))
    seconds = of.several(of.text, 5)
    of.body |= {first: [of.text() for _ in seconds] if of.chance(0.3) else of.text(), second: seconds}
    _pooling(of)
    if of.body.get("use_activation") is False:
        del of.body["use_activation"]  # a cosine has none
    of.maybe(0.2, max_tokens_per_doc=lambda: rng.randint(1, 30))
    return Asked(rng.choice(("/score", "/v1/score")), of.body)


def ranked(rng: random.Random) -> Asked:
    of = _Drawing(rng)
    documents = of.several(of.text, 6)
    of.body |= {"query": of.text(), "documents": [{"text": text} for text in documents] if of.chance(0.3) else documents}
    _pooling(of)
    of.maybe(0.3, top_n=lambda: rng.randint(0, 9), return_documents=lambda: of.chance(0.5), max_tokens_per_doc=lambda: rng.randint(1, 30))
    return Asked(rng.choice(("/rerank", "/v1/rerank", "/v2/rerank")), of.body)


GENERATING = (completion, completion, chat, chat, chat, responses, responses, messages, messages, invocation, tokenized)
EMBEDDING = (embedding, embedding, pooled_vectors, scored, ranked)
LABELLING = (classified, classified, pooled_labels, scored, ranked)
