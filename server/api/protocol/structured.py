"""What an answer's text must be, as requests say it: response_format, structured_outputs, and the guided_* names of vLLM 0.11."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, FailFast, Field

from headway.server.errors import RequestError
from headway.server.types import Grammar

MAX_CHOICES = 4096
_BACKENDS = ("auto", "guidance", "llguidance")  # what asks for the library that is used here

JsonSchema = dict[str, Any] | bool
Choices = Annotated[list[Annotated[str, Field(min_length=1)]], FailFast()]
_ANY_OBJECT: JsonSchema = {"type": "object"}


class JsonSchemaFormat(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str | None = None
    description: str | None = None
    schema_: JsonSchema = Field(alias="schema")
    strict: bool | None = Field(None, description="Without effect: every schema is enforced.")


class ResponseFormat(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: JsonSchemaFormat | None = None
    format: dict[str, Any] | None = Field(None, description="Of a structural tag, or else structures and triggers.")
    structures: list[dict[str, Any]] | None = None
    triggers: list[str] | None = None


class StructuredOutputs(BaseModel):
    """Exactly one of the first six, unless response_format is the constraint, and how JSON is written."""

    model_config = ConfigDict(extra="forbid")

    json_: JsonSchema | str | None = Field(None, alias="json", description="A JSON schema, or its text.")
    regex: str | None = None
    choice: Choices = Field([], max_length=MAX_CHOICES)
    grammar: str | None = Field(None, description="Lark or GBNF.")
    json_object: bool | None = None
    structural_tag: dict[str, Any] | str | None = Field(None, description="As in response_format, or its text.")
    disable_any_whitespace: bool = Field(False, description="JSON without blanks and line breaks between its marks.")
    disable_additional_properties: bool = Field(False, description="Objects have only the properties that their schemas list.")
    whitespace_pattern: str | None = Field(None, description="What may stand between the marks of JSON, as a regular expression.")


_NOTHING = StructuredOutputs.model_validate({})


class StructuredFields(BaseModel):
    """The fields of a request that constrain its answer."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: JsonSchema | str | None = Field(None, description="Older name of structured_outputs.json.")
    guided_regex: str | None = Field(None, description="Older name of structured_outputs.regex.")
    guided_choice: Choices = Field([], max_length=MAX_CHOICES, description="Older name of structured_outputs.choice.")
    guided_grammar: str | None = Field(None, description="Older name of structured_outputs.grammar.")
    guided_whitespace_pattern: str | None = Field(None, description="Older name of structured_outputs.whitespace_pattern.")
    guided_decoding_backend: str | None = Field(None, description="auto or guidance.")

    def asked_grammar(self) -> Grammar | None:
        """The one constraint, unchecked (see serving/grammar.py). Raises RequestError."""
        _check_backend(self.guided_decoding_backend)
        given = self.structured_outputs or _NOTHING
        asked = [*_of_response_format(self.response_format), *_of_structured_outputs(given), *self._guided()]
        if len(asked) > 1:
            names = " and ".join(str(grammar.param) for grammar in asked)
            raise RequestError(f"{names} constrain the answer, each in its way: send exactly one.", asked[1].param)
        if not asked:
            if self.structured_outputs is not None or self.guided_whitespace_pattern is not None:
                raise RequestError(
                    "structured_outputs needs exactly one of json, regex, choice, grammar, json_object and structural_tag.",
                    "structured_outputs",
                )
            return None
        return _written(asked[0], given, self.guided_whitespace_pattern)

    def _guided(self) -> Iterator[Grammar]:
        for name in ("json", "regex", "choice", "grammar"):
            value = getattr(self, f"guided_{name}")
            if value not in (None, []):
                yield _grammar(name, value, f"guided_{name}")


def json_schema_grammar(schema: JsonSchema, param: str | None = None) -> Grammar:
    """JSON that ``schema`` describes. ``param``: the field to name if the library can't do it."""
    return Grammar("json_schema", json.dumps(schema, ensure_ascii=False), param=param)


def _of_response_format(response: ResponseFormat | None) -> Iterator[Grammar]:
    if response is None:
        return
    given = sorted(name for name in response.model_fields_set - {"type"} if getattr(response, name) is not None)
    belongs = {"json_schema": ["json_schema"], "structural_tag": ["format", "structures", "triggers"]}.get(response.type, [])
    for name in given:
        if name not in belongs:
            field = f"response_format.{name}"
            raise RequestError(f"{field} does not go with the type {response.type}: leave it out.", field)
    if response.type == "json_object":
        yield json_schema_grammar(_ANY_OBJECT, "response_format")
    elif response.type == "json_schema":
        if response.json_schema is None:
            raise RequestError("response_format.json_schema is required with the type json_schema.", "response_format.json_schema")
        yield json_schema_grammar(response.json_schema.schema_, "response_format.json_schema.schema")
    elif response.type == "structural_tag":
        yield _grammar("structural_tag", {name: getattr(response, name) for name in given}, "response_format")


def _of_structured_outputs(given: StructuredOutputs) -> Iterator[Grammar]:
    if given.json_object:
        yield json_schema_grammar(_ANY_OBJECT, "structured_outputs.json_object")
    values = {"json": given.json_, "regex": given.regex, "choice": given.choice or None, "grammar": given.grammar}
    for name, value in (values | {"structural_tag": given.structural_tag}).items():
        if value is not None:
            yield _grammar(name, value, f"structured_outputs.{name}")


def _grammar(name: str, value: Any, param: str) -> Grammar:
    """``value`` of the field ``name``: JSON may come as its text."""
    match name:
        case "regex" | "grammar":
            return Grammar(name, value, param=param)
        case "choice":
            return Grammar("choice", json.dumps(value, ensure_ascii=False), param=param)
        case "json":
            return json_schema_grammar(_parsed(value, param), param)
        case _:
            return Grammar("structural_tag", json.dumps(_parsed(value, param), ensure_ascii=False), param=param)


def _parsed(value: Any, param: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{param} is a text that is not valid JSON: {error}.", param) from error
    if not isinstance(parsed, dict | bool):
        raise RequestError(f"{param} must be a JSON object, or its text.", param)
    return parsed


def _written(grammar: Grammar, given: StructuredOutputs, guided_pattern: str | None) -> Grammar:
    """With what was asked about the way that JSON is written."""
    patterns = [pattern for pattern in (given.whitespace_pattern, guided_pattern) if pattern is not None]
    if given.disable_any_whitespace:
        patterns.append("")
    if len(patterns) > 1:
        raise RequestError(
            "disable_any_whitespace and whitespace_pattern exclude each other, and the pattern is given once: leave one out.",
            "structured_outputs.whitespace_pattern",
        )
    if (patterns or given.disable_additional_properties) and grammar.kind not in ("json_schema", "structural_tag"):
        raise RequestError(f"{grammar.param} is not about JSON: leave out what says how JSON is written.", grammar.param)
    written: Grammar = msgspec.structs.replace(
        grammar, whitespace=patterns[0] if patterns else None, closes_objects=given.disable_additional_properties
    )
    return written


def _check_backend(name: str | None) -> None:
    if name is not None and name not in _BACKENDS:
        raise RequestError(
            f"guided_decoding_backend must be one of {', '.join(_BACKENDS)}: this server has no other; leave it out.",
            "guided_decoding_backend",
        )
