"""The sandbox that chat templates run in: Jinja2 with what transformers gives them, and nothing more.

Templates come with the model, so they are foreign code: attributes are guarded, arguments immutable, and products that
would fill the memory are refused.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

import jinja2
import jinja2.compiler
import jinja2.exceptions
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.sandbox
import jinja2.utils

MAX_RENDERED_CHARS = 64 * 1024 * 1024
_MAX_POWER_BITS = 4096
# Of a conversion as %5d: a width or precision of seven digits and more, or one that stands among the values.
_WIDE = re.compile(r"%(?:\([^)]*\))?[^a-zA-Z%]*?(?:\*|\d{7})")


class TemplateRefusal(jinja2.TemplateError):
    """The template itself says that it can't take these messages (`raise_exception`)."""


class _Compiler(jinja2.compiler.CodeGenerator):
    """Computes nothing while it compiles: `{{ "a"|center(1000000000) }}` would fill the memory before anybody renders it."""

    def _output_child_to_const(self, node: jinja2.nodes.Expr, frame: Any, finalize: Any) -> str:
        if not isinstance(node, jinja2.nodes.TemplateData | jinja2.nodes.Const):
            raise jinja2.nodes.Impossible
        return super()._output_child_to_const(node, frame, finalize)

    def visit_EvalContextModifier(self, node: jinja2.nodes.EvalContextModifier, frame: Any) -> None:
        if not all(isinstance(option.value, jinja2.nodes.Const) for option in node.options):
            self.fail("autoescape takes true or false", node.lineno)
        super().visit_EvalContextModifier(node, frame)


class Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Compiles chat templates. Immutable in use."""

    intercepted_binops = frozenset({"*", "**", "%"})
    code_generator_class = _Compiler

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[_GenerationTag, jinja2.ext.loopcontrols])
        self.filters["tojson"] = _tojson
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
        self.globals["namespace"] = _Namespace
        self.globals["dict"] = lambda *args, **kwargs: dict(*args, **kwargs)

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            for sequence, times in ((left, right), (right, left)):
                if isinstance(sequence, (str, list, tuple)) and isinstance(times, int) and len(sequence) * times > MAX_RENDERED_CHARS:
                    raise jinja2.exceptions.SecurityError("the template repeats a text too often")
        elif operator == "**" and isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > _MAX_POWER_BITS:
            raise jinja2.exceptions.SecurityError("the template computes too large a power")
        elif operator == "%" and isinstance(left, str) and _WIDE.search(left):
            raise jinja2.exceptions.SecurityError("the template fills a text up to too great a width")
        return super().call_binop(context, operator, left, right)


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks the assistant's text for training; here it is only its content."""

    tags = {"generation"}  # noqa: RUF012 -- declared so by the base class

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # A scope, as a call block would be: what is set inside stays inside.
        return [jinja2.nodes.Scope(body).set_lineno(line)]


class _Namespace(jinja2.utils.Namespace):
    """`namespace()` whose attributes can't be the interpreter's own."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"the template sets the attribute {name!r}, which is not allowed")
        super().__setitem__(name, value)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: tuple[str, str] | None = None, sort_keys: bool = False
) -> str:
    """Jinja's own filter escapes HTML and sorts keys; models were trained without either."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: Any) -> None:
    raise TemplateRefusal(str(message))


def render_limited(template: jinja2.Template, variables: dict[str, Any], limit: int = MAX_RENDERED_CHARS) -> str:
    """Renders piece by piece and stops at `limit` characters with jinja2's SecurityError."""
    pieces: list[str] = []
    length = 0
    for piece in template.generate(variables):
        length += len(piece)
        if length > limit:
            raise jinja2.exceptions.SecurityError(f"the template writes more than {limit} characters")
        pieces.append(piece)
    return "".join(pieces)
