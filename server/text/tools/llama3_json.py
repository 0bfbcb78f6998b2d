"""Llama 3.1 to 3.3, and 4 with a JSON template: ``{"name": .., "parameters": {..}}``, several with ``;`` between them."""

from __future__ import annotations

from headway.server.text.output import OutputParser
from headway.server.text.tools.bare import bare_parser
from headway.server.text.tools.parser import Tools


def make_parser(tools: Tools) -> OutputParser:
    return bare_parser("<|python_tag|>")
