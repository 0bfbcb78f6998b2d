"""Recorded answers of the families that write calls as Python."""

from __future__ import annotations

from tool_texts import Recorded

BOOK = "book(seats=['1A', \"1]B\"], guest={'name': 'Zoë', 'tags': (1, None, True)}, price=-1.5e3, paid=false)"
BOOKED = '{"seats": ["1A", "1]B"], "guest": {"name": "Zoë", "tags": [1, null, true]}, "price": -1500.0, "paid": false}'

TEXTS = [
    Recorded(
        "pythonic",
        "plain",
        "A list [f(a=1)] in a line, and\n[x] or [f(x) for x in y]\n",
        "A list [f(a=1)] in a line, and\n[x] or [f(x) for x in y]\n",
    ),
    Recorded("pythonic", "one", '[get_weather(city="Paris", days=3)]', calls=(("get_weather", '{"city": "Paris", "days": 3}'),)),
    Recorded(
        "pythonic",
        "parallel, with text around",
        f'I look:\n[now(), {BOOK},\n get_weather( city = "a\\n\\"b\\" (c]" ), ]\nDone.',
        "I look:\nDone.",
        (("now", "{}"), ("book", BOOKED), ("get_weather", '{"city": "a\\n\\"b\\" (c]"}')),
    ),
    Recorded(
        "pythonic",
        "dotted names",
        "[calendar.events.add(day='it\\'s Monday')]",
        calls=(("calendar.events.add", '{"day": "it\'s Monday"}'),),
    ),
    Recorded("pythonic", "a line break in a string", "[f(a='x\ny')]", calls=(("f", '{"a": "x\\ny"}'),)),
    Recorded("pythonic", "a long string", '[f(a="""x\n"y" \\""")""")]', calls=(("f", '{"a": "x\\n\\"y\\" \\"\\"\\")"}'),)),
    Recorded("pythonic", "an unknown escape", r"[f(a='\d+')]", calls=(("f", r'{"a": "\\d+"}'),)),
    Recorded("pythonic", "half of a pair", r"[f(a='\ud800')]", calls=(("f", r'{"a": "\ud800"}'),)),
    Recorded("pythonic", "no literal", "[f(a=1), g(b=__import__('os'))] ok", ", g(b=__import__('os'))] ok", (("f", '{"a": 1}'),)),
    Recorded("pythonic", "no keyword", "[f('x')]", "[f('x')]"),
    Recorded("pythonic", "no number of JSON", "[f(x=1e999)]", "[f(x=1e999)]"),
    Recorded("pythonic", "cut off", "[f(a=1), g(b='x", ", g(b='x", (("f", '{"a": 1}'),)),
    Recorded("pythonic", "cut off behind a call", "[f(a=1)", calls=(("f", '{"a": 1}'),)),
    Recorded(
        "llama4_pythonic",
        "in tokens",
        'Hm. <|python_start|>[get_weather(city="Rome"), now()]<|python_end|>',
        "Hm.",
        (("get_weather", '{"city": "Rome"}'), ("now", "{}")),
    ),
    Recorded(
        "lfm2",
        "in tokens",
        '<|tool_call_start|>[get_weather(city="Rome")]<|tool_call_end|>I look up the weather.',
        "I look up the weather.",
        (("get_weather", '{"city": "Rome"}'),),
    ),
]
