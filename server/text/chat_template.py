"""Chat messages to the prompt that the model was trained on, by the model's Jinja template."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jinja2
from pydantic_core import from_json

from headway.server.config.chat import OWN_VARIABLES
from headway.server.errors import ConfigError, RequestError
from headway.server.text.template_environment import MAX_RENDERED_CHARS, Sandbox, TemplateRefusal, render_limited
from headway.server.text.template_traits import TemplateTraits, traits_of
from headway.server.text.tools_prompt import instructions, with_instructions, with_readable_calls

ContentFormat = Literal["auto", "string", "openai"]

_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
# One reasoning text goes by several names; templates read one or the other.
_REASONING = ("reasoning_content", "thinking", "reasoning")
# Stands at the end of the message to continue while it is rendered. The blank shows whether the template strips contents.
_CONTINUE_TAG = "<<HEADWAY_CONTINUES_HERE>> "


class ChatTemplate:
    """A model's chat templates, compiled once. Immutable; may be used from several threads.

    `sources`: one template, or several by name ("default"; "tool_use" is taken when there are tools). Empty: the model has none, and
    every render is a RequestError. `special_tokens`: name -> text, variables of the template. Raises ConfigError for bad syntax.
    """

    def __init__(self, sources: str | Mapping[str, str], special_tokens: Mapping[str, str], content_format: ContentFormat = "auto") -> None:
        self._special_tokens = dict(special_tokens)
        self._content_format = content_format
        self.sources = {"default": sources} if isinstance(sources, str) else dict(sources)
        environment = Sandbox()
        self._templates: dict[str, tuple[jinja2.Template, TemplateTraits]] = {}
        for name, source in self.sources.items():
            try:
                self._templates[name] = environment.from_string(source), traits_of(environment, source)
            except jinja2.TemplateSyntaxError as error:
                raise ConfigError(
                    [f"the chat template is no valid Jinja: {error.message} in line {error.lineno}; correct --chat-template"]
                ) from error

    def replaced_by(self, source: str) -> ChatTemplate:
        """The template ``source`` of a request in the place of this one. CPU work. Raises RequestError."""
        try:
            return ChatTemplate(source, self._special_tokens, self._content_format)
        except ConfigError as error:
            raise RequestError(f"{error.problems[0].partition(';')[0]}.", "chat_template") from error
        # Python's compiler has limits of its own: it takes no twenty loops in each other.
        except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
            raise RequestError(f"chat_template can't be compiled: {type(error).__name__}.", "chat_template") from error

    @property
    def knows_tools(self) -> bool:
        """Whether it shows tools to the model in a form of its own; else ``render`` uses that of tools_prompt.py."""
        found = self._templates.get("tool_use") or self._templates.get("default")
        return found is not None and "tools" in found[1].variables

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt. Messages and tools are plain JSON values in OpenAI's form and stay as they are; `kwargs` are further variables
        of the template. Special tokens are in the text, so encode it without adding any.

        CPU work: milliseconds for long conversations. Raises RequestError, `param` "messages" for what the template refuses.
        """
        if kwargs and (reserved := sorted(OWN_VARIABLES & set(kwargs))):
            raise RequestError(
                f"{reserved[0]!r} can't be set through chat_template_kwargs; use the request's own field.", "chat_template_kwargs"
            )
        if continue_final_message and add_generation_prompt:
            raise RequestError(
                "continue_final_message and add_generation_prompt exclude each other; set add_generation_prompt to false.",
                "continue_final_message",
            )
        template, traits = self._choose(bool(tools))
        if documents and "documents" not in traits.variables:
            raise RequestError("The model's chat template takes no documents; put them into a message.", "documents")
        chat = [_prepare(message, index, self._content_format, traits) for index, message in enumerate(_named_answers(messages))]
        if "tools" not in traits.variables:
            chat = with_readable_calls(chat, traits)
            if tools:
                system = {"role": "system", "content": instructions(tools)}
                chat, tools = with_instructions(chat, _prepare(system, 0, self._content_format, traits)), None
        final = _mark_final(chat) if continue_final_message else ""
        variables = {
            "documents": list(documents) if documents else None,
            **self._special_tokens,
            **(kwargs or {}),
            "messages": chat,
            "tools": list(tools) if tools else None,
            "add_generation_prompt": add_generation_prompt,
        }
        prompt = _render(template, variables)
        return _cut_at_mark(prompt, final) if continue_final_message else prompt

    def _choose(self, with_tools: bool) -> tuple[jinja2.Template, TemplateTraits]:
        if with_tools and "tool_use" in self._templates:
            return self._templates["tool_use"]
        if "default" in self._templates:
            return self._templates["default"]
        raise RequestError(
            "This model has no chat template for messages: send a text in their place (prompt, or input), or start the server with "
            "--chat-template.",
            "messages",
        )


def read_chat_template(option: str) -> str:
    """The Jinja source that --chat-template means: the template itself, or the content of the file that it names. Raises ConfigError."""
    if any(mark in option for mark in ("{{", "{%", "{#")) or "\n" in option:
        return option
    path = Path(option).expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            [f"--chat-template {option}: there is no such file, and it is no Jinja template either; give a file or a template"]
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"--chat-template {option}: the file cannot be read: {error}"]) from error


def _render(template: jinja2.Template, variables: dict[str, Any]) -> str:
    try:
        return render_limited(template, variables, MAX_RENDERED_CHARS)
    except TemplateRefusal as error:
        raise RequestError(f"The model's chat template refuses these messages: {error}", "messages") from error
    except jinja2.exceptions.SecurityError as error:
        raise RequestError(f"The model's chat template was stopped: {str(error).rstrip('.')}.", "messages") from error
    except jinja2.TemplateError as error:
        raise RequestError(f"The model's chat template fails on these messages: {error}", "messages") from error
    # A template is a program of somebody else's: it may add none to a text or index past an end.
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError, MemoryError) as error:
        raise RequestError(f"The model's chat template fails on these messages: {type(error).__name__}: {error}", "messages") from error


def _named_answers(messages: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """``messages``, each answer of a tool with the tool's name, which clients leave out and some templates show: by the call's id."""
    names: dict[Any, str] = {}
    for message in messages:
        names |= {call.get("id"): call["function"]["name"] for call in message.get("tool_calls") or ()}
        name = names.get(message.get("tool_call_id"))
        is_nameless = message.get("role") == "tool" and message.get("name") is None
        yield {**message, "name": name} if is_nameless and name is not None else message


def _prepare(message: Mapping[str, Any], index: int, content_format: ContentFormat, traits: TemplateTraits) -> dict[str, Any]:
    """A message as the template wants it; a copy."""
    prepared = dict(message)
    if prepared.get("role") == "developer" and "developer" not in traits.words:
        prepared["role"] = "system"  # its older name
    if prepared.get("content") is None and prepared.get("refusal") is not None:
        prepared["content"] = prepared["refusal"]
    if prepared.get("content") is not None or not traits.tests_none:
        # Most templates join the content to a text without asking, where the message is a tool call and has none.
        prepared["content"] = _content(prepared.get("content"), index, content_format, traits)
    if prepared.get("tool_calls"):
        prepared["tool_calls"] = [
            _with_arguments(call, index, at, as_text=traits.joins_arguments) for at, call in enumerate(prepared["tool_calls"])
        ]
    elif "tool_calls" in prepared:
        # A template that asks whether there are any would take an empty or null list for some.
        del prepared["tool_calls"]
    reasoning = next((prepared[name] for name in _REASONING if prepared.get(name) is not None), None)
    if reasoning is not None:
        prepared = {"thinking": reasoning, **prepared, "reasoning_content": reasoning}
    return prepared


def _content(content: Any, index: int, content_format: ContentFormat, traits: TemplateTraits) -> str | list[dict[str, Any]]:
    """What ``content_format`` says; with auto text for a template that takes text, typed parts for one that walks over them, and what
    came for one that asks which it is."""
    wants_parts = content_format == "openai" or (content_format == "auto" and traits.iterates_parts)
    if content is None or isinstance(content, str):
        text = content or ""
        takes_text = content_format == "auto" and traits.tests_string
        return [{"type": "text", "text": text}] if wants_parts and not takes_text else text
    texts = [_part_text(part, index, at) for at, part in enumerate(content)]
    return [{"type": "text", "text": text} for text in texts] if wants_parts else "\n".join(texts)


def _part_text(part: Any, index: int, at: int) -> str:
    where = f"messages.{index}.content.{at}"
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str) or kind not in _TEXT_PARTS:
        raise RequestError(f"The content part at {where} is of type {reprlib.repr(kind)[:80]}; this model takes text only.", where)
    text = part.get(_TEXT_PARTS[kind])
    if not isinstance(text, str):
        raise RequestError(f"The content part at {where} has no text.", where)
    return text


def _with_arguments(call: Mapping[str, Any], index: int, at: int, *, as_text: bool) -> dict[str, Any]:
    """OpenAI sends a call's arguments as a text of JSON; most templates were written for the object."""
    function = call.get("function")
    if not isinstance(function, Mapping):
        return dict(call)
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        parsed = _parsed_arguments(arguments, f"messages.{index}.tool_calls.{at}.function.arguments")
        arguments = arguments if as_text else parsed
    elif as_text:
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


def _parsed_arguments(arguments: str, where: str) -> dict[str, Any]:
    try:
        parsed = from_json(arguments, allow_inf_nan=False) if arguments.strip() else {}
    except ValueError as error:
        raise RequestError(f"The arguments at {where} are no valid JSON: {error}.", where) from error
    if not isinstance(parsed, dict):
        raise RequestError(f"The arguments at {where} must be a JSON object.", where)
    return parsed


def _mark_final(chat: list[dict[str, Any]]) -> str:
    """Puts the mark at the end of the last message's text; returns that text."""
    content = chat[-1].get("content") if chat else None
    if isinstance(content, str) and content:
        chat[-1]["content"] = content + _CONTINUE_TAG
        return content
    if isinstance(content, list) and content:
        text = str(content[-1]["text"])
        chat[-1]["content"] = [*content[:-1], {**content[-1], "text": text + _CONTINUE_TAG}]
        return text
    raise RequestError("continue_final_message needs a last message with text to continue.", "continue_final_message")


def _cut_at_mark(prompt: str, final: str) -> str:
    """The prompt up to the mark."""
    at = prompt.rfind(_CONTINUE_TAG.strip())
    if at < 0 or final.strip() not in prompt:
        raise RequestError(
            "The model's chat template does not show the last message as it is, so continue_final_message can't be used with it.",
            "continue_final_message",
        )
    # A template that strips contents has eaten the mark's blank: what it would have stripped before it goes as well.
    return prompt[:at] if prompt.startswith(_CONTINUE_TAG, at) else prompt[:at].rstrip()
