"""A chat's errors in another API's words."""

from __future__ import annotations

import pytest

from headway.server.api.serving.field_names import FieldNames, in_words_of
from headway.server.errors import ModelNotFound, RequestError

NAMES = FieldNames((r"tools\.(\d+)\.function\b", r"tools.\1"), (r"messages\b(?s:.*)", "input"))


@pytest.mark.parametrize(
    ("param", "name"),
    [("tools.3.function.name", "tools.3.name"), ("tools.3.functional", "tools.3.functional"), ("messages.1.a\nb", "input"), ("n", "n")],
)
def test_what_a_name_covers_is_replaced_and_the_rest_stays(param: str, name: str) -> None:
    assert NAMES(param) == name


def test_the_error_keeps_its_kind_and_names_the_field_once() -> None:
    with pytest.raises(ModelNotFound, match=r"^input is wrong; messages are not\.$") as caught, in_words_of(NAMES):
        raise ModelNotFound("messages is wrong; messages are not.", "messages")
    assert caught.value.param == "input"


def test_words_may_stand_where_the_param_did() -> None:
    with pytest.raises(RequestError, match=r"^the chat is wrong$") as caught, in_words_of(NAMES, {"messages": "the chat"}):
        raise RequestError("messages is wrong", "messages")
    assert caught.value.param == "input"


@pytest.mark.parametrize("param", [None, "n"])
def test_other_errors_pass_as_they_are(param: str | None) -> None:
    error = RequestError("n is wrong", param)
    with pytest.raises(RequestError) as caught, in_words_of(NAMES):
        raise error
    assert caught.value is error
