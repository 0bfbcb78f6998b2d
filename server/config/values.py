"""An option's value as text and back: the same rules for the command line, YAML scalars and the environment."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from headway.server.config.fields import Kind, Setting
from headway.server.words import cut

MASK = "***"
_MAX_SHOWN = 80

_TRUE = frozenset(("true", "1", "yes", "y", "on", "t", "enable", "enabled"))
_FALSE = frozenset(("false", "0", "no", "n", "off", "f", "disable", "disabled"))
_HUMAN = re.compile(r"([+-]?\d{1,30})(?:\.(\d{1,30}))?([kmgtKMGT])?", re.ASCII)
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}
_INTEGER = re.compile(r"[+-]?\d{1,30}", re.ASCII)
# Texts that stand in a list as they are; others need the JSON form.
_PLAIN_ITEM = re.compile(r"[^\s,\[\"'][^,\"']*(?<!\s)")


class BadValue(ValueError):
    """A value that an option does not take; ``str()`` says what was expected and what came."""


def parse_text(setting: Setting, text: str) -> Any:
    """The value that ``text`` means for this option. Raises BadValue."""
    return checked(setting, _parsed(setting, text))


def _parsed(setting: Setting, text: str) -> Any:
    if setting.nullable and text.strip() in ("", "None", "null"):  # null is json.dumps(None)
        return None
    match setting.kind:
        case Kind.BOOL:
            value: Any = parse_bool(text)
        case Kind.INT:
            value = _literal(setting, text)
            value = _parse_int(setting, text.strip()) if value is None else value
        case Kind.FLOAT:
            value = _parse_float(text.strip())
        case Kind.CHOICE:
            value = _literal(setting, text)
        case Kind.LIST:
            value = _parse_list(text)
        case Kind.JSON:
            value = _parse_json(text)
        case Kind.TEXT:
            value = text
    if value is None:
        raise bad_value(setting, text)
    return value


def parse_words(setting: Setting, words: Sequence[str]) -> Any:
    """The value of several words: a list takes them all, any other option exactly one."""
    if setting.kind is not Kind.LIST:
        assert len(words) == 1
        return parse_text(setting, words[0])
    return checked(setting, [item for word in words for item in _parsed(setting, word)])


def checked(setting: Setting, value: Any) -> Any:
    """``value`` if it is inside the option's bounds; a list without its blank items. Raises BadValue."""
    if isinstance(value, list):
        value = [item for item in value if item.strip()]
        if setting.option.secret and not value:
            # A key that got lost on its way (an unset variable in a script) must not open the server to everybody.
            raise BadValue("is given but holds no key; leave it out to serve without one")
    if isinstance(value, int | float) and not isinstance(value, bool) and not all(_holds(value, *bound) for bound in setting.bounds):
        raise bad_value(setting, str(value))
    if setting.option.secret and MASK in (value if isinstance(value, list) else [value]):
        raise BadValue(f"{MASK} is what a secret is shown as, not a secret")
    return value


def parse_bool(text: str) -> bool | None:
    word = text.strip().lower()
    return True if word in _TRUE else False if word in _FALSE else None


def opposite(value: bool | None) -> bool | None:
    """What a name that turns an option off means by ``value``; what is left open stays so."""
    return None if value is None else not value


def parse_human_int(text: str) -> int | None:
    """k m g t are powers of 1000 and may follow a decimal; K M G T are powers of 1024 and follow a whole number. None: neither."""
    match = _HUMAN.fullmatch(text)
    if not match:
        return None
    whole, fraction, letter = match.groups()
    if letter is None or letter.isupper():
        if fraction is not None:
            if letter and parse_human_int(text.lower()) is not None:
                raise BadValue(f"{text!r} counts in powers of 1024 and must be whole; {text.lower()!r} is the decimal form")
            return None
        return int(whole) * (1024 ** _POWERS[letter.lower()] if letter else 1)
    digits = fraction or ""
    scaled = int(whole + digits) * 1000 ** _POWERS[letter]
    return scaled // 10 ** len(digits) if scaled % 10 ** len(digits) == 0 else None


def expected(setting: Setting) -> str:
    """What the option takes, in words: "a whole number from 1 to 65535"."""
    match setting.kind:
        case Kind.BOOL:
            return "true or false"
        case Kind.CHOICE:
            return "one of " + ", ".join(setting.words)
        case Kind.LIST:
            return "a list: several words, commas between, or a JSON array"
        case Kind.JSON:
            return "a JSON object"
        case Kind.TEXT:
            return "a text"
        case Kind.INT | Kind.FLOAT:
            number = "a whole number" if setting.kind is Kind.INT else "a number"
            human = " (4k and 4K too)" if setting.option.human else ""
            words = "".join(f", or {word}" for word in setting.words)
            return f"{number}{human}{_range(setting)}{words}"


def bad_value(setting: Setting, text: str) -> BadValue:
    if reason := dict(setting.option.refused).get(text.strip().lower()):
        return BadValue(f"{reason} (got {text.strip()!r})")
    shown = "something else (not shown, it is a secret)" if setting.option.secret else repr(cut(text, _MAX_SHOWN))
    return BadValue(f"expected {expected(setting)}, got {shown}")


def to_text(setting: Setting, value: Any) -> str:
    """The text that parse_text reads back as ``value``."""
    if value is None:
        return "None"
    if setting.kind is Kind.BOOL:
        return "true" if value else "false"
    if setting.kind is Kind.LIST:
        plain = value and all(_PLAIN_ITEM.fullmatch(item) for item in value)
        return ",".join(value) if plain else json.dumps(value, ensure_ascii=False)
    if setting.kind is Kind.JSON:
        return json.dumps(value, ensure_ascii=False)
    return repr(value) if isinstance(value, float) else str(value)


def to_flags(setting: Setting, value: Any) -> list[str]:
    """The command line words that set the option to ``value``; one word, so that nothing can be taken for another option."""
    if setting.kind is Kind.BOOL and value is not None:
        return [setting.flag if value else f"--no-{setting.key}"]
    return [f"{setting.flag}={to_text(setting, value)}"]


def masked(setting: Setting, value: Any) -> Any:
    """``value`` as it may be shown: a secret that is set becomes ***."""
    if not setting.option.secret or not value:
        return value
    return [MASK] * len(value) if isinstance(value, list) else MASK


def _literal(setting: Setting, text: str) -> str | None:
    word = text.strip()
    word = dict(setting.option.synonyms).get(word.lower(), word)
    if word in setting.words:
        return word
    return next((allowed for allowed in setting.words if allowed.lower() == word.lower()), None)


def _parse_int(setting: Setting, text: str) -> int | None:
    if setting.option.human:
        return parse_human_int(text)
    return int(text) if _INTEGER.fullmatch(text) else None


def _parse_float(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _parse_list(text: str) -> list[str] | None:
    if text.strip().startswith("["):
        try:
            items = json.loads(text)
        except (ValueError, RecursionError):
            return None
        return [_item(item) for item in items] if all(isinstance(item, str | int | float | dict) for item in items) else None
    if text.strip().startswith("{") and _is_object(text):
        return [text.strip()]
    return [item.strip() for item in text.split(",") if item.strip()]


def _item(value: Any) -> str:
    """An item of a JSON list; an object (an adapter's name and path) stays JSON."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _parse_json(text: str) -> dict[str, Any] | None:
    if not text.strip():
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _holds(value: float, sign: str, bound: float) -> bool:
    return {"ge": value >= bound, "gt": value > bound, "le": value <= bound, "lt": value < bound}[sign]


def _range(setting: Setting) -> str:
    bounds = {sign: f"{bound:g}" if abs(bound) < 1e6 else str(bound) for sign, bound in setting.bounds}
    if "ge" in bounds and "le" in bounds:
        return f" from {bounds['ge']} to {bounds['le']}"
    texts = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}
    parts = [f"{texts[sign]} {bound}" for sign, bound in bounds.items()]
    return " " + " and ".join(parts) if parts else ""
