"""Recorded answers of the families that write arguments as elements, which get their types from the tools."""

from __future__ import annotations

from tool_texts import Recorded

WEATHER = "<function=get_weather>\n<parameter=city>\nSão Paulo\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>"
CODE = "if a < b:\n\tprint(\"</x>\", 'é')\n"

QWEN = [
    Recorded(
        "qwen3_coder",
        "parallel, with text around",
        f"Let me see.\n\n<tool_call>\n{WEATHER}\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>\nSoon.",
        "Let me see.\n\nSoon.",
        (("get_weather", '{"city": "São Paulo", "days": 3}'), ("now", "{}")),
    ),
    Recorded("qwen3_xml", "no outer element", WEATHER, calls=(("get_weather", '{"city": "São Paulo", "days": 3}'),)),
    Recorded(
        "qwen3_coder",
        "types",
        '<tool_call><function=book><parameter=seats>\n["1A", \'B\']\n</parameter><parameter=guest>{"a": {"b": [1]}}</parameter>'
        "<parameter=price>1.50</parameter><parameter=paid>True</parameter><parameter=note>null</parameter></function></tool_call>",
        calls=(("book", '{"seats": ["1A", "B"], "guest": {"a": {"b": [1]}}, "price": 1.50, "paid": true, "note": null}'),),
    ),
    Recorded(
        "qwen3_coder",
        "values of another type",
        "<function=book><parameter=price>NaN</parameter><parameter=paid>maybe</parameter><parameter=note>5 %</parameter></function>",
        calls=(("book", '{"price": "NaN", "paid": "maybe", "note": "5 %"}'),),
    ),
    Recorded(
        "qwen3_coder",
        "a text in lines",
        f"<function=get_weather>\n<parameter=city>\n{CODE}\n</parameter>\n</function>",
        calls=(("get_weather", '{"city": "if a < b:\\n\\tprint(\\"</x>\\", \'é\')\\n"}'),),
    ),
    Recorded(
        "qwen3_coder",
        "an empty text",
        "<function=get_weather><parameter=city></parameter></function>",
        calls=(("get_weather", '{"city": ""}'),),
    ),
    Recorded(
        "qwen3_coder",
        "an unknown function",
        "<function=other><parameter=a>5</parameter><parameter=b>x</parameter></function>",
        calls=(("other", '{"a": 5, "b": "x"}'),),
    ),
    Recorded(
        "qwen3_coder",
        "forgotten ends",
        "<tool_call><function=get_weather><parameter=city>\nBonn\n<parameter=days>2</function></tool_call>"
        "<tool_call><function=now></tool_call><function=now><function=now></function>",
        calls=(("get_weather", '{"city": "Bonn", "days": 2}'), ("now", "{}"), ("now", "{}"), ("now", "{}")),
    ),
    Recorded(
        "qwen3_coder",
        "words inside",
        "<function=now> hm</function><function=get_weather><parameter=city>a</parameter>so<parameter =x</function>.",
        "<function=now> hm</function>so<parameter =x.",
        (("get_weather", '{"city": "a"}'),),
    ),
    Recorded("qwen3_coder", "a broken key", "<function=now><parameter=a<b></function>", "<parameter=a<b>", (("now", "{}"),)),
    Recorded("qwen3_coder", "cut off", "<function=get_weather><parameter=city>\nBo", calls=(("get_weather", '{"city": "Bo'),)),
    Recorded("qwen3_coder", "cut off in a number", "<function=get_weather><parameter=days>1", calls=(("get_weather", "{"),)),
    Recorded("qwen3_coder", "cut off in a name", "<tool_call>\n<function=get_", "<tool_call>\n<function=get_"),
    Recorded(
        "qwen3_coder", "no call", "Use <tool_call> and </tool_call>, <function=x y>", "Use <tool_call> and </tool_call>, <function=x y>"
    ),
    Recorded(
        "seed_oss",
        "one",
        f"<seed:tool_call>\n{WEATHER}\n</seed:tool_call>",
        calls=(("get_weather", '{"city": "São Paulo", "days": 3}'),),
    ),
    Recorded(
        "minimax_m2",
        "two",
        '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Rome</parameter>\n'
        '<parameter name="days">2</parameter>\n</invoke>\n'
        '<invoke name="now">\n</invoke>\n</minimax:tool_call>',
        calls=(("get_weather", '{"city": "Rome", "days": 2}'), ("now", "{}")),
    ),
]

GLM = [
    Recorded(
        "glm45",
        "parallel",
        "I look.\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>北京\n</arg_value>\n"
        "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n"
        "</tool_call>\n<tool_call>now\n</tool_call>",
        "I look.",
        (("get_weather", '{"city": "北京\\n", "days": 3}'), ("now", "{}")),
    ),
    Recorded(
        "glm47",
        "in one line",
        '<tool_call>book<arg_key>seats</arg_key><arg_value>["1A"]</arg_value></tool_call>Done',
        "Done",
        (("book", '{"seats": ["1A"]}'),),
    ),
    Recorded("glm45", "no call", "<tool_call>we call <b></tool_call>", "<tool_call>we call <b></tool_call>"),
    Recorded(
        "glm45",
        "a broken argument",
        "<tool_call>now<arg_key>a<arg_value>1</arg_value></tool_call>",
        "<arg_key>a<arg_value>1</arg_value>",
        (("now", "{}"),),
    ),
    Recorded("glm45", "a forgotten end", "<tool_call>now<arg_key>a</arg_key><arg_value>1</tool_call>", calls=(("now", '{"a": 1}'),)),
]

TEXTS = [*QWEN, *GLM]
