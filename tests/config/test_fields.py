from __future__ import annotations

from typing import Any, Literal

import pytest

from headway.server.config.fields import Kind, Topic, option, settings_of


class Fruit(Topic):
    """Fruit.

    More about it.
    """

    apples: int | Literal["all"] | None = option(None, "How many.", ge=2, lt=9, human=True, aliases=("pommes",), short=("-a",))
    enable_pears: bool = option(True, "Whether.")
    box: dict[str, Any] = option({}, "What.")


class Basket(Topic):
    fruit: Fruit = Fruit()


class Twice(Topic):
    fruit: Fruit = Fruit()
    other: Fruit = Fruit()


def test_a_field_is_the_whole_declaration() -> None:
    apples, pears, box = settings_of(Basket)
    assert (apples.topic, apples.title, apples.kind, apples.words, apples.nullable) == ("fruit", "Fruit", Kind.INT, ("all",), True)
    assert apples.bounds == (("ge", 2), ("lt", 9))
    assert apples.names == ("apples", "pommes")
    assert apples.environment_names == ("SM_APPLES", "SM_POMMES", "SM_VLLM_APPLES", "SM_VLLM_POMMES")
    assert apples.negative_names == ()
    assert pears.negative_names == ("no-enable-pears", "disable-pears")
    assert (box.kind, box.default, box.nullable) == (Kind.JSON, {}, False)


def test_one_name_means_one_option() -> None:
    with pytest.raises(AssertionError, match="declared twice"):
        settings_of(Twice)
