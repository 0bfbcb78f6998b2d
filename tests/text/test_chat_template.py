"""Chat templates: the same prompt as transformers', and bad templates or messages as clear errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headway.server.errors import ConfigError, RequestError
from headway.server.text.chat_template import ChatTemplate, read_chat_template
from headway.server.text.template_environment import Sandbox, render_limited
from headway.server.text.tokenizer import Tokenizer

USER = {"role": "user", "content": "What is 2 < 3 & 'x'?"}
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "does <f>", "parameters": {"type": "object", "properties": {"é": {"type": "string"}}}},
}
CONVERSATIONS: list[list[dict[str, Any]]] = [
    [USER],
    [{"role": "system", "content": "Be brief."}, USER],
    [USER, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "  Why?\n\n"}],
    [{"role": "user", "content": ""}],
    [{"role": "user", "content": "日本語 😀 <|im_end|> {{ 1 + 1 }} {% if %}"}],
    [{"role": "system", "content": "s"}, USER, {"role": "assistant", "content": "a", "reasoning_content": "because"}, USER],
]
# What models of the field write: loops, namespaces, filters, tools, macros, white-space control, generation marks.
RICH_TEMPLATE = """{{- bos_token }}
{%- macro show(message) -%}
    {%- if message.content is string -%}{{ message.content | trim }}{%- else -%}
    {%- for part in message.content %}{{ part['text'] }}{% endfor -%}{%- endif -%}
{%- endmacro %}
{%- set ns = namespace(count=0, system='') %}
{%- for message in messages %}
    {%- if message.role == 'system' %}{% set ns.system = message.content %}{% continue %}{% endif %}
    {%- set ns.count = ns.count + 1 %}
    {%- if loop.first and tools %}
TOOLS {{ tools | tojson(indent=2) }}
    {%- endif %}
    {%- if message.role == 'assistant' %}
        {%- if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}
        {%- generation %}{{ show(message) }}{{ eos_token }}{% endgeneration %}
        {%- for call in message.tool_calls or [] %}<call>{{ call.function.name }} {{ call.function.arguments | tojson }}</call>{% endfor %}
    {%- else %}
[{{ message.role | upper }} {{ ns.count }}/{{ messages | length }}] {{ show(message) }}{{ ns.system }}
    {%- endif %}
    {%- if ns.count > 10 %}{% break %}{% endif %}
{%- endfor %}
    {% if add_generation_prompt %}
[ASSISTANT{% if enable_thinking is defined and not enable_thinking %} quick{% endif %}]
    {% endif %}
{{ dict(a=1) | tojson }} {{ ['a', 'b'] | join('-') }} {{ messages[-1].content[:3] }}
"""
CALL = [
    USER,
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"é": "<1>", "b": [1, None]}}}],
    },
    {"role": "tool", "content": "42"},
]


@pytest.mark.parametrize("generation_prompt", [True, False])
@pytest.mark.parametrize("index", range(len(CONVERSATIONS)))
def test_the_demo_model_renders_as_in_transformers(
    demo_tokenizer: Tokenizer, reference_tokenizer: Any, index: int, generation_prompt: bool
) -> None:
    template = ChatTemplate(demo_tokenizer.chat_templates, demo_tokenizer.special_tokens)
    ours = template.render(CONVERSATIONS[index], add_generation_prompt=generation_prompt)
    theirs = reference_tokenizer.apply_chat_template(CONVERSATIONS[index], tokenize=False, add_generation_prompt=generation_prompt)
    assert ours == theirs
    ids = reference_tokenizer.apply_chat_template(CONVERSATIONS[index], add_generation_prompt=generation_prompt)["input_ids"]
    assert demo_tokenizer.encode(ours, add_special_tokens=False) == ids


@pytest.mark.parametrize("messages", [*CONVERSATIONS, CALL])
@pytest.mark.parametrize("tools", [None, [TOOL]])
def test_a_rich_template_renders_as_in_transformers(
    demo_tokenizer: Tokenizer, reference_tokenizer: Any, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None
) -> None:
    ours = ChatTemplate(RICH_TEMPLATE, demo_tokenizer.special_tokens).render(messages, tools=tools, kwargs={"enable_thinking": False})
    theirs = reference_tokenizer.apply_chat_template(
        messages, tools=tools, chat_template=RICH_TEMPLATE, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    assert ours == theirs


@pytest.mark.parametrize("text", ["The capital of", "The capital of ", "  x  "])
@pytest.mark.parametrize("stripped", [False, True])
def test_continuing_the_final_message(demo_tokenizer: Tokenizer, reference_tokenizer: Any, text: str, stripped: bool) -> None:
    source = demo_tokenizer.chat_templates["default"]
    if stripped:
        source = source.replace("message['content']", "message['content'] | trim")
    messages = [USER, {"role": "assistant", "content": text}]
    ours = ChatTemplate(source, demo_tokenizer.special_tokens).render(messages, add_generation_prompt=False, continue_final_message=True)
    theirs = reference_tokenizer.apply_chat_template(messages, chat_template=source, tokenize=False, continue_final_message=True)
    assert ours == theirs
    assert messages[-1]["content"] == text


STRING_TEMPLATE = "{% for m in messages %}{{ m['content'] + '|' }}{% endfor %}"
PARTS_TEMPLATE = "{% for m in messages %}{% for p in m['content'] %}[{{ p['type'] }}:{{ p.text }}]{% endfor %}{% endfor %}"
MACRO_TEMPLATE = (
    "{% macro show(c) %}{% for p in c %}[{{ p.text }}]{% endfor %}{% endmacro %}{% for m in messages %}{{ show(m.content) }}{% endfor %}"
)
EITHER_TEMPLATE = (
    "{% for m in messages %}{% set c = m.content %}"
    "{% if c is string %}{{ c }}{% else %}{% for p in c %}[{{ p.text }}]{% endfor %}{% endif %}{% endfor %}"
)
PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]


@pytest.mark.parametrize(
    ("source", "content", "expected"),
    [
        (STRING_TEMPLATE, "a", "a|"),
        (STRING_TEMPLATE, PARTS, "a\nb|"),
        (STRING_TEMPLATE, None, "|"),
        (PARTS_TEMPLATE, "a", "[text:a]"),
        (PARTS_TEMPLATE, PARTS, "[text:a][text:b]"),
        (MACRO_TEMPLATE, "a", "[a]"),
        (MACRO_TEMPLATE, PARTS, "[a][b]"),
        (EITHER_TEMPLATE, "a", "a"),
        (EITHER_TEMPLATE, PARTS, "[a][b]"),
        ("{% for m in messages %}{{ m.content is none }}{% endfor %}", None, "True"),
    ],
)
def test_contents_take_the_form_that_the_template_wants(source: str, content: Any, expected: str) -> None:
    assert ChatTemplate(source, {}).render([{"role": "user", "content": content}]) == expected


def test_the_content_format_can_be_forced() -> None:
    message = [{"role": "user", "content": PARTS}]
    source = "{{ messages[0].content | tojson }}"
    assert json.loads(ChatTemplate(source, {}, "openai").render(message)) == PARTS
    assert ChatTemplate(EITHER_TEMPLATE, {}, "string").render(message) == "a\nb"


def test_tools_choose_their_own_template() -> None:
    template = ChatTemplate({"default": "plain {{ tools }}", "tool_use": "tools {{ tools | length }}"}, {})
    assert template.render([USER]) == "plain None"
    assert template.render([USER], tools=[TOOL]) == "tools 1"


def test_arguments_of_tool_calls_are_objects_for_the_template() -> None:
    source = "{{ messages[0].tool_calls[0].function.arguments.x }}"
    call = {"type": "function", "function": {"name": "f", "arguments": '{"x": 5}'}}
    message = {"role": "assistant", "tool_calls": [call]}
    assert ChatTemplate(source, {}).render([message]) == "5"
    assert call["function"]["arguments"] == '{"x": 5}'  # type: ignore[index]
    call["function"] = {"name": "f", "arguments": "{x"}
    with pytest.raises(RequestError, match="no valid JSON") as caught:
        ChatTemplate(source, {}).render([message])
    assert caught.value.param == "messages.0.tool_calls.0.function.arguments"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "refuses these messages: roles must alternate"),
        ("{{ messages[0]['content'] + 1 }}", "TypeError"),
        ("{{ messages[7].content.x }}", "has no element 7"),
        ("{{ nothing.at_all }}", "'nothing' is undefined"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "'append' of 'list' object is unsafe"),
        ("{{ cycler.__init__.__globals__ }}", "unsafe"),
        ("{% set ns = namespace() %}{% set ns.__class__ = 1 %}", "not allowed"),
        ("{{ 'x' * 999999999 }}", "repeats a text too often"),
        ("{{ 10 ** 99999999 }}", "too large a power"),
        ("{{ range(99999999) | list }}", "too big"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    ],
)
def test_templates_that_fail_or_attack(source: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        ChatTemplate(source, {}).render([USER])
    assert caught.value.param == "messages"


def test_output_is_limited() -> None:
    template = Sandbox().from_string("{% for i in range(1000) %}{{ 'x' * 100 }}{% endfor %}")
    with pytest.raises(Exception, match="writes more than 5000 characters"):
        render_limited(template, {}, 5000)


@pytest.mark.parametrize(
    ("arguments", "param", "message"),
    [
        ({"kwargs": {"messages": []}}, "chat_template_kwargs", "can't be set"),
        ({"continue_final_message": True}, "continue_final_message", "exclude each other"),
        ({"continue_final_message": True, "add_generation_prompt": False}, "continue_final_message", "text to continue"),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        ChatTemplate("x", {}).render([{"role": "user", "content": ""}], **arguments)
    assert caught.value.param == param


def test_images_are_refused_by_place() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:"}}]
    with pytest.raises(RequestError, match="of type 'image_url'; this model takes text only") as caught:
        ChatTemplate(STRING_TEMPLATE, {}).render([USER, {"role": "user", "content": parts}])
    assert caught.value.param == "messages.1.content.1"


def test_a_model_without_a_template() -> None:
    with pytest.raises(RequestError, match="no chat template"):
        ChatTemplate({}, {}).render([USER])


def test_where_the_option_points(tmp_path: Path) -> None:
    path = tmp_path / "chat.jinja"
    path.write_text("{{ messages }}\n")
    assert read_chat_template(str(path)) == "{{ messages }}\n"
    assert read_chat_template("{{ messages }}") == "{{ messages }}"
    with pytest.raises(ConfigError, match="there is no such file"):
        read_chat_template(str(tmp_path / "other.jinja"))
    with pytest.raises(ConfigError, match=r"no valid Jinja.* in line 2"):
        ChatTemplate("a\n{% for %}", {})


@pytest.mark.parametrize(
    "source",
    [
        "{{ '%1000d' % 1 }}",
        "{{ '%1000d'|format(1) }}",
        "{{ 'a'|center(1000) }}",
        "{% set x = 'a'|center(1000) %}",
        "{% if 'a'|center(1000) %}{% endif %}",
    ],
)
def test_nothing_is_computed_while_a_template_is_compiled(source: str) -> None:
    """With more zeros that fills the memory before anybody renders it, of `headway check` too."""
    assert len(str(Sandbox().compile(source, raw=True))) < 1500


def test_autoescape_is_not_computed_either() -> None:
    with pytest.raises(ConfigError, match="autoescape takes true or false"):
        ChatTemplate("{% autoescape 'a'|center(1000) %}{% endautoescape %}", {})


@pytest.mark.parametrize("source", ["{{ '%9999999d' % 1 }}", "{{ '%.*f' % (9999999, 1.0) }}", "{{ '%(a)-9999999s' % {'a': 1} }}"])
def test_wide_conversions_are_refused(source: str) -> None:
    with pytest.raises(RequestError, match="too great a width"):
        ChatTemplate(source, {}).render([USER])


def test_usual_conversions_and_remainders() -> None:
    assert ChatTemplate("{{ '%05.1f %s 100%%' % (2.5, 'x') }} {{ 7 % 2 }}", {}).render([USER]) == "002.5 x 100% 1"
