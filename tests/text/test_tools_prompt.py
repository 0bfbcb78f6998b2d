"""Tools, calls and their answers in templates that know nothing of them, and roles under other names."""

from __future__ import annotations

from typing import Any

import pytest

from headway.server.errors import RequestError
from headway.server.text.chat_template import ChatTemplate
from headway.server.text.tokenizer import Tokenizer

PLAIN = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
PARTS = "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}[{{ p.text }}]{% endfor %}{% endfor %}"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
USER = {"role": "user", "content": "hi"}
CALLS = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"é": 1}'}}],
}
ANSWERS = [{"role": "tool", "tool_call_id": "1", "content": "one"}, {"role": "tool", "content": [{"type": "text", "text": "two"}]}]


def rendered(source: str, messages: list[dict[str, Any]], **options: Any) -> str:
    return ChatTemplate(source, {}).render(messages, **options)


def test_tools_stand_in_the_system_message() -> None:
    text = rendered(PLAIN, [USER], tools=[TOOL])
    assert text.startswith("<system>You can call functions")
    assert '<tools>[{"name": "f", "parameters": {"type": "object"}}]</tools>' in text
    assert text.endswith("<user>hi")
    with_own = rendered(PLAIN, [{"role": "developer", "content": "Be brief."}, USER], tools=[TOOL])
    assert with_own == text.replace("<system>", "<system>Be brief.\n")
    assert rendered(PARTS, [{"role": "system", "content": "Be brief."}, USER], tools=[TOOL]).startswith("<system>[Be brief.][You can call")


def test_calls_and_answers_become_text() -> None:
    text = rendered(PLAIN, [USER, CALLS, *ANSWERS])
    assert text == (
        '<user>hi<assistant><tool_call>[{"name": "f", "arguments": {"é": 1}}]</tool_call>'
        "<user><tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response>"
    )
    assert "[<tool_response>][one][</tool_response>][<tool_response>][two]" in rendered(PARTS, [USER, CALLS, *ANSWERS])


def test_a_template_that_knows_tools_gets_them_as_they_are() -> None:
    knows = "{{ tools | length }}" + PLAIN
    assert rendered(knows, [USER, ANSWERS[0]], tools=[TOOL]) == "1<user>hi<tool>one"


def test_a_template_that_shows_calls_itself_gets_them() -> None:
    shows = PLAIN.replace(
        "{% endfor %}", "{{ m.tool_calls | length if m.tool_calls else '' }}{% if m.role == 'tool' %}!{% endif %}{% endfor %}"
    )
    assert rendered(shows, [USER, CALLS, ANSWERS[0]], tools=[TOOL]).endswith("<user>hi<assistant>1<tool>one!")


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("{{ '```json\n' + call['function']['arguments'] }}", '```json\n{"é": 1}'),  # as DeepSeek's do
        ("{{ call.function.arguments }}", '{"é": 1}'),
        ("{{ call.function.arguments | tojson }}", '{"é": 1}'),
        ("{% for name in call.function.arguments %}{{ name }}{% endfor %}", "é"),
        ("{{ call.function.arguments if call.function.arguments is string else call.function.arguments | tojson }}", '{"é": 1}'),
    ],
)
@pytest.mark.parametrize("arguments", ['{"é": 1}', {"é": 1}])
def test_arguments_are_what_the_template_was_written_for(source: str, shown: str, arguments: Any) -> None:
    loops = "{% for m in messages %}{% for call in m.tool_calls %}" + source + "{% endfor %}{% endfor %}{{ tools }}"
    called = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}
    assert rendered(loops, [called]) == f"{shown}None"


def test_an_answer_has_the_name_of_the_function_that_was_called() -> None:
    names = "{% for m in messages %}{{ m.role }}:{{ m.name }}|{% endfor %}{{ tools }}"
    messages = [USER, CALLS, ANSWERS[0], {**ANSWERS[0], "name": "own"}]
    assert rendered(names, messages).startswith("user:|assistant:|tool:f|tool:own|")


def test_the_demo_model_is_shown_tools(demo_tokenizer: Tokenizer) -> None:
    template = ChatTemplate(demo_tokenizer.chat_templates, demo_tokenizer.special_tokens)
    assert not template.knows_tools
    text = template.render([USER, CALLS, *ANSWERS], tools=[TOOL])
    assert text.startswith("<|im_start|>system\nYou can call functions")
    assert text.endswith("</tool_response><|im_end|>\n<|im_start|>assistant\n")


def test_the_developer_is_the_system_where_the_template_knows_no_other() -> None:
    messages = [{"role": "developer", "content": "x"}]
    assert rendered(PLAIN, messages) == "<system>x"
    assert rendered(PLAIN + "{% if messages[0].role == 'developer' %}!{% endif %}", messages) == "<developer>x!"


def test_a_refusal_is_what_the_assistant_said() -> None:
    assert rendered(PLAIN, [USER, {"role": "assistant", "content": None, "refusal": "No."}]) == "<user>hi<assistant>No."


def test_documents_are_for_templates_that_know_them() -> None:
    documents = [{"title": "a", "text": "b"}]
    assert rendered("{% for d in documents %}{{ d.title }}{% endfor %}", [USER], documents=documents) == "a"
    with pytest.raises(RequestError) as caught:
        rendered(PLAIN, [USER], documents=documents)
    assert caught.value.param == "documents"
