"""From the declarations to a command line, with variables of the environment below it."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from headway.server.config.fields import Kind, Setting, settings_of
from headway.server.config.values import BadValue, parse_text
from headway.server.errors import ConfigError
from headway.server.router.config import RouterConfig, router_problems

_PREFIX = "HEADWAY_ROUTER_"
# What Kubernetes sets beside HEADWAY_ROUTER_PORT for a service of that name, or of one that begins so.
_OF_A_SERVICE = re.compile(_PREFIX + r"(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")
_LISTED = "`headway router --help` lists the options"
_DESCRIPTION = "One address for many servers: each request goes to one of them, and its answer streams back."
_EPILOG = f"An option's value may stand in the environment instead: {_PREFIX}POLICY is --policy."


def read_options(argv: Sequence[str], environ: Mapping[str, str]) -> RouterConfig:
    """Raises ConfigError with every problem at once; argparse exits with 2 for values that can't be read, 0 for --help."""
    settings = settings_of(RouterConfig)
    read, rest = _parser(settings).parse_known_args(list(argv))
    given = vars(read)
    found = _unknown_words(settings, rest)
    tree: dict[str, dict[str, Any]] = {}
    for setting in settings:
        value, is_given = given[setting.name], setting.name in given and given[setting.name] is not None
        if not is_given and (text := environ.get(_variable(setting))) is not None and not _is_of_kubernetes(setting, text):
            try:
                value, is_given = parse_text(setting, text), True
            except BadValue as problem:
                found.append(f"environment {_variable(setting)}: {problem}")
        if is_given:
            tree.setdefault(setting.topic, {})[setting.name] = value
    found += _unknown_variables(settings, environ)
    config = RouterConfig.model_validate(tree)
    if found := found or router_problems(config):
        raise ConfigError(found)
    return config


def _variable(setting: Setting) -> str:
    return _PREFIX + setting.name.upper()


def _is_of_kubernetes(setting: Setting, text: str) -> bool:
    """It sets HEADWAY_ROUTER_PORT=tcp://10.0.0.1:80 for a service called headway-router, as a router's service would be."""
    return setting.name == "port" and text.startswith("tcp://")


def _unknown_words(settings: Sequence[Setting], words: Sequence[str]) -> list[str]:
    """A sentence for each word of a command line that is no option; a bare word may have been meant for the one before it."""
    known = [f"--{name}" for setting in settings for name in setting.names]
    found = []
    for word in (word.partition("=")[0] for word in words if word.startswith("-")):
        near = [name for name in known if name.startswith(word)] or difflib.get_close_matches(word, known, n=1)
        found.append(f"{word}: there is no such option; {f'did you mean {near[0]}?' if near else _LISTED}")
    return found or [f"{word}: this is no option, nor the value of one; {_LISTED}" for word in words]


def _unknown_variables(settings: Sequence[Setting], environ: Mapping[str, str]) -> list[str]:
    """A sentence for each that was meant for the router and says nothing to it."""
    known = [_variable(setting) for setting in settings]
    found = []
    for name in sorted(environ):
        if name.startswith(_PREFIX) and name not in known and not _OF_A_SERVICE.fullmatch(name):
            near = difflib.get_close_matches(name.removeprefix(_PREFIX), [one.removeprefix(_PREFIX) for one in known], n=1)
            hint = f"did you mean {_PREFIX}{near[0]}?" if near else _LISTED
            found.append(f"environment {name}: there is no such option; {hint}")
    return found


def _parser(settings: Sequence[Setting]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="headway router", description=_DESCRIPTION, epilog=_EPILOG, allow_abbrev=False)
    groups: dict[str, Any] = {}
    for setting in settings:
        group = groups.setdefault(setting.topic, parser.add_argument_group(setting.title))
        names = [*setting.option.short, *(f"--{name}" for name in setting.names)]
        if setting.kind is Kind.BOOL:
            group.add_argument(*names, dest=setting.name, action=argparse.BooleanOptionalAction, default=None, help=_help(setting))
        else:
            spot = setting.option.metavar or ("{" + ",".join(setting.words) + "}" if setting.kind is Kind.CHOICE else setting.kind.upper())
            group.add_argument(*names, dest=setting.name, metavar=spot, type=_reader(setting), help=_help(setting))
    return parser


def _reader(setting: Setting) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return parse_text(setting, text)
        except BadValue as problem:
            raise argparse.ArgumentTypeError(str(problem)) from None

    return read


def _help(setting: Setting) -> str:
    told = setting.default in (None, [], "") or "default:" in setting.help.lower()
    text = setting.help if told else f"{setting.help} Default: {setting.default}."
    return text.replace("%", "%%")
