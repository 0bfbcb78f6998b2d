"""What a chat template expects of message contents, read from its syntax tree."""

from __future__ import annotations

from dataclasses import dataclass

import jinja2
from jinja2 import nodes


@dataclass(frozen=True)
class TemplateTraits:
    """- `iterates_parts`: it walks over a content as a list of typed parts.
    - `tests_string`: it also asks whether a content is a string, so that both forms are right.
    - `tests_none`: it asks whether something is none, so that an absent content must stay none.
    - `variables`: every variable that it speaks of; `words`: every member and every text that stands in its expressions.
    """

    iterates_parts: bool
    tests_string: bool
    tests_none: bool
    variables: frozenset[str]
    words: frozenset[str]


def traits_of(environment: jinja2.Environment, source: str) -> TemplateTraits:
    tree = environment.parse(source)
    names = _content_names(tree)
    iterates = any(_is_content(loop.iter, names) for loop in tree.find_all(nodes.For))
    tests = {test.name for test in tree.find_all(nodes.Test)}
    compared_to_none = any(isinstance(operand.expr, nodes.Const) and operand.expr.value is None for operand in tree.find_all(nodes.Operand))
    return TemplateTraits(
        iterates,
        bool(tests & {"string", "iterable", "sequence", "mapping"}),
        "none" in tests or compared_to_none,
        frozenset(name.name for name in tree.find_all(nodes.Name)),
        _words(tree),
    )


def _words(tree: nodes.Template) -> frozenset[str]:
    members = {member.attr for member in tree.find_all(nodes.Getattr)}
    return frozenset(members | {const.value for const in tree.find_all(nodes.Const) if isinstance(const.value, str)})


def _content_names(tree: nodes.Template) -> set[str]:
    """Variables that hold a content: assigned from `message.content`, or a macro's parameter that gets one."""
    names: set[str] = set()
    macros = {macro.name: macro for macro in tree.find_all(nodes.Macro)}
    while True:
        before = len(names)
        for assign in tree.find_all(nodes.Assign):
            if isinstance(assign.target, nodes.Name) and _is_content(assign.node, names):
                names.add(assign.target.name)
        for call in tree.find_all(nodes.Call):
            macro = macros.get(call.node.name) if isinstance(call.node, nodes.Name) else None
            if macro is not None:
                names |= {param.name for param, value in zip(macro.args, call.args, strict=False) if _is_content(value, names)}
        if len(names) == before:
            return names


def _is_content(node: nodes.Node | None, names: set[str]) -> bool:
    """Whether an expression is a message's content, perhaps filtered, sliced or chosen."""
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    if isinstance(node, nodes.Getitem):
        if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            return node.arg.value == "content"
        return isinstance(node.arg, nodes.Slice) and _is_content(node.node, names)
    if isinstance(node, nodes.Name):
        return node.name in names
    if isinstance(node, nodes.Filter):
        return _is_content(node.node, names)
    if isinstance(node, nodes.CondExpr):
        return _is_content(node.expr1, names) or _is_content(node.expr2, names)
    return False
