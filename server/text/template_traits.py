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
    - `joins_arguments`: it puts a call's arguments into a text as they are, so that they must be one.
    - `variables`: every variable that it speaks of; `words`: every member and every text that stands in its expressions.
    """

    iterates_parts: bool
    tests_string: bool
    tests_none: bool
    joins_arguments: bool
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
        _joins_arguments(tree),
        frozenset(name.name for name in tree.find_all(nodes.Name)),
        _words(tree),
    )


def _joins_arguments(tree: nodes.Template) -> bool:
    """A template that also writes them as JSON, or walks over them, knows both forms."""
    handled = (*tree.find_all(nodes.Filter), *tree.find_all(nodes.Test))
    if any(_is_member(use.node, "arguments") for use in handled) or any(
        _is_member(loop.iter, "arguments") for loop in tree.find_all(nodes.For)
    ):
        return False
    added = [side for sum_ in tree.find_all(nodes.Add) for side in (sum_.left, sum_.right)]
    joined = [node for concat in tree.find_all(nodes.Concat) for node in concat.nodes]
    written = [node for output in tree.find_all(nodes.Output) for node in output.nodes]
    return any(_is_member(node, "arguments") for node in (*added, *joined, *written))


def _is_member(node: nodes.Node | None, name: str) -> bool:
    if isinstance(node, nodes.Getattr):
        return node.attr == name
    return isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and node.arg.value == name


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
    if _is_member(node, "content"):
        return True
    if isinstance(node, nodes.Getitem):
        return isinstance(node.arg, nodes.Slice) and _is_content(node.node, names)
    if isinstance(node, nodes.Name):
        return node.name in names
    if isinstance(node, nodes.Filter):
        return _is_content(node.node, names)
    if isinstance(node, nodes.CondExpr):
        return _is_content(node.expr1, names) or _is_content(node.expr2, names)
    return False
