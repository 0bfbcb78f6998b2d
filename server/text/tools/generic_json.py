"""Any model that was told to answer with JSON: objects or lists of them, with a name and arguments (or parameters)."""

from __future__ import annotations

from headway.server.text.output import OutputParser
from headway.server.text.tools.bare import bare_parser
from headway.server.text.tools.parser import Tools


def make_parser(tools: Tools) -> OutputParser:
    return bare_parser()
