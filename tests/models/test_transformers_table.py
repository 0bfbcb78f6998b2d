"""The table of classes in transformers that can be served is that of the transformers which is installed."""

from __future__ import annotations

import json

from transformers_table import REFUSED, TABLE, refused, table

from headway.server.models.transformers_config import known_classes, refused_classes


def test_the_table_is_as_transformers_is() -> None:
    """Else run `python tests/support/transformers_table.py`, and the tests of what it lists."""
    assert json.loads(TABLE.read_text()) == table()
    assert json.loads(REFUSED.read_text()) == refused()


def test_the_table_is_read() -> None:
    assert known_classes()["Olmo3ForCausalLM"].model_type == "olmo3"
    assert known_classes()["PhiForCausalLM"].is_gated is False
    assert [name for name, known in known_classes().items() if known.has_sinks][:2] == ["FlintForCausalLM", "GptOssForCausalLM"]
    assert not known_classes().keys() & refused_classes().keys()
