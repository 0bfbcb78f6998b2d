"""Any value of any option survives the way through each source."""

from __future__ import annotations

import json
import re
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from headway.server.config.buckets import FAMILIES
from headway.server.config.fields import Kind, Setting
from headway.server.config.sources import all_settings, resolve
from headway.server.config.values import MASK, opposite, to_flags, to_text
from headway.server.errors import ConfigError

SETTINGS = all_settings()
PLACES = ("ssm:", "arn:", "file://", "s3://")  # such texts say where a value stands
# Characters that a command line and a YAML file can carry.
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20).filter(lambda text: not text.strip().startswith(PLACES))
# The options without which another one is refused.
NEEDED = {
    "lora_modules": ["--enable-lora"],
    "enable_log_outputs": ["--enable-log-requests"],
    "uds_permissions": ["--uds=/s"],
    "code_revision": ["--trust-remote-code"],
    "enable_eplb": ["--enable-expert-parallel", "--tensor-parallel-size=2"],
    **{setting.name: ["--ssl-keyfile=k", "--ssl-certfile=c", "--ssl-ca-certs=a"] for setting in SETTINGS if setting.topic == "tls"},
}
UNMARKED = {"", "None", "null"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def values_of(setting: Setting) -> st.SearchStrategy[Any]:
    bounds = dict(setting.bounds)
    match setting.kind:
        case Kind.BOOL:
            values: st.SearchStrategy[Any] = st.booleans()
        case Kind.INT:
            low = int(bounds.get("ge", bounds.get("gt", 0) + 1))
            values = st.integers(low, int(bounds.get("le", 2**40)))
        case Kind.FLOAT:
            high = bounds.get("le", bounds.get("lt", 1e9))
            values = st.floats(bounds.get("gt", bounds.get("ge", 0.0)), high, exclude_min="gt" in bounds, exclude_max="lt" in bounds)
        case Kind.CHOICE:
            values = st.sampled_from(setting.words)
        case Kind.LIST:
            values = st.lists(
                TEXT.filter(lambda item: item.strip() not in ("", MASK)), min_size=int(setting.option.secret), max_size=3, unique=True
            )
        case Kind.JSON:
            values = st.dictionaries(TEXT, JSON, max_size=3)
        case Kind.TEXT:
            values = TEXT.filter(lambda text: text.strip() not in (*UNMARKED, MASK))
    if setting.kind is Kind.INT and setting.words:
        values |= st.sampled_from(setting.words)
    if setting.name == "hf_token":
        values = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=20).filter(
            lambda text: text not in (*UNMARKED, MASK) and not text.startswith((*PLACES, '"', "'"))
        )
    if setting.name == "api_key_file":
        values = values.filter(lambda path: "://" not in path)
    if setting.name == "api_key_open_prefixes":
        values = st.lists(st.from_regex(r"/[a-z]{1,5}(/[\w-]{1,5})?", fullmatch=True), max_size=3, unique=True)
    if setting.name == "log_prefix":
        values = values.filter(str.isprintable)
    if setting.name == "allowed_origins":
        values = st.lists(st.from_regex(r"https?://[a-z]{1,5}(\.[a-z]{1,5})?(:808[0-9])?", fullmatch=True), max_size=3, unique=True)
    if setting.name in ("allowed_methods", "allowed_headers"):
        values = st.lists(st.from_regex(r"[A-Z]{1,8}(-[A-Z]{1,3})?|\*", fullmatch=True), max_size=3, unique=True)
    if setting.name == "cudagraph_capture_sizes":
        values = st.lists(st.integers(1, 999).map(str), max_size=3, unique=True)
    if setting.name == "metrics_prefix":
        values = st.from_regex(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,20}", fullmatch=True).filter(lambda text: text not in UNMARKED)
    if setting.name == "custom_histogram_buckets":
        rising = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=4, unique=True).map(sorted)
        values = st.dictionaries(st.sampled_from(FAMILIES), rising, max_size=3)
    if setting.name == "pooler_config":
        values = st.fixed_dictionaries({}, optional={"dimensions": st.integers(1, 2**40), "use_activation": st.booleans()})
    if setting.name == "kv_transfer_config":
        roles = st.sampled_from(["kv_producer", "kv_consumer", "kv_both"])
        values = st.fixed_dictionaries({"kv_connector": st.just("NixlConnector"), "kv_role": roles})
    if setting.name == "speculative_config":
        values = st.fixed_dictionaries({"method": st.just("ngram"), "num_speculative_tokens": st.integers(1, 32)})
    if setting.name == "structured_outputs_config":
        values = st.dictionaries(st.sampled_from(["disable_any_whitespace", "enable_in_reasoning", "disable_fallback"]), st.booleans())
    if setting.name == "eplb_config":
        values = st.fixed_dictionaries({}, optional={"step_interval": st.integers(1, 2**40), "log_balancedness": st.booleans()})
    if setting.name == "compilation_config":
        values = st.dictionaries(st.just("pass_config"), st.dictionaries(st.just("enable_sp"), st.booleans()))
    if setting.name == "otlp_traces_endpoint":
        values = st.from_regex(r"https?://[a-z]{1,9}(:[1-9][0-9]{0,3})?(/[a-z]{1,9})?", fullmatch=True)
    if setting.name == "root_path":
        values = values.map(lambda path: f"/{path.strip()}")
    if setting.name == "lora_modules":
        values = values.map(lambda paths: [f"{i}={path}" for i, path in enumerate(paths)])
    if setting.name in ("lora_allowed_prefixes", "disable_access_log_for_endpoints"):
        values = values.map(lambda paths: [f"/{path}" for path in paths])
    if setting.name == "uds_permissions":
        values = st.from_regex(r"[0-7]{3}", fullmatch=True)
    if setting.name == "fingerprint_mode":
        values = st.sampled_from([word for word in setting.words if word != "custom"])
    return st.none() | values if setting.nullable and setting.name not in ("model", *NEEDED) else values


def effective(
    setting: Setting, argv: list[str], environ: dict[str, str], fallbacks: dict[str, tuple[Any, str]] | None = None
) -> tuple[Any, str]:
    needed = (
        [flag for flag in NEEDED.get(setting.name, []) if not flag.startswith(f"{setting.flag}=")] if argv or environ or fallbacks else []
    )
    resolved = resolve([*argv, *needed, "--show-config"], environ, fallbacks=fallbacks)
    return resolved.value(setting), str(resolved.source(setting))


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.name)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_command_line(setting: Setting, data: st.DataObject) -> None:
    value = data.draw(values_of(setting))
    got, source = effective(setting, to_flags(setting, value), {})
    assert got == value
    assert type(got) is type(value)
    assert source.startswith("--")
    if setting.kind is not Kind.BOOL and not to_text(setting, value).startswith("-"):
        underscored = "--" + setting.name
        assert effective(setting, [underscored, to_text(setting, value)], {})[0] == value


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.name)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_environment(setting: Setting, data: st.DataObject) -> None:
    value = data.draw(values_of(setting))
    name = data.draw(st.sampled_from(setting.environment_names))
    text = to_text(setting, value)
    # Bare texts lose blanks and quotes around them; a value that has those is passed as json.dumps passes it.
    bare = text == text.strip() and text[:1] not in "\"'"
    got, source = effective(setting, [], {name: text if bare and data.draw(st.booleans()) else f" {json.dumps(text)} "})
    expected = value.strip() if setting.kind is Kind.TEXT and isinstance(value, str) else value
    assert got == expected
    assert source == f"environment {name}"


class _Dumper(yaml.SafeDumper):
    """Quotes the texts 1e5 and 0E0, which are numbers to us and in YAML 1.2, but not in the 1.1 that PyYAML writes."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789"))


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.name)
@given(data=st.data())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_yaml(setting: Setting, data: st.DataObject, tmp_path: Path) -> None:
    value = data.draw(values_of(setting))
    key = data.draw(st.sampled_from([setting.key, setting.name]))
    path = tmp_path / "options.yaml"
    form = data.draw(st.sampled_from(["yaml", "json", "text"]))
    content = {"yaml": value, "json": value, "text": to_text(setting, value)}[form]
    path.write_text(json.dumps({key: content}) if form == "json" else yaml.dump({key: content}, Dumper=_Dumper), encoding="utf-8")
    got, source = effective(setting, [f"--config={path}"], {})
    assert got == (setting.default if value is None else value)
    assert source == f"YAML {path}:{key}"


@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_show_config_is_a_config_file(data: st.DataObject, tmp_path: Path) -> None:
    from headway.server.config.show import show_config

    open_settings = [setting for setting in SETTINGS if not setting.option.secret]
    chosen = data.draw(st.lists(st.sampled_from(open_settings), max_size=6, unique_by=lambda s: s.name))
    # These often contradict others.
    skip = {"kv_cache_memory_bytes", "max_num_batched_tokens", "max_model_len", "device", "log_config", "fingerprint_value", *NEEDED}
    flags = [to_flags(s, data.draw(values_of(s))) for s in chosen if s.name not in skip]
    try:
        first = resolve([*chain.from_iterable(flags), "--show-config"], {})
    except ConfigError:  # some of them can't go together: then each is taken alone
        for alone in flags:
            resolve([*alone, "--show-config"], {})
        reject()
    path = tmp_path / "shown.yaml"
    path.write_text(show_config(first), encoding="utf-8")
    assert resolve([f"--config={path}", "--show-config"], {}).config == first.config


def spelled(setting: Setting, value: Any, data: st.DataObject) -> tuple[str, Any]:
    """One of the option's names, in dashes, and the value under that name: the opposite where the name turns a boolean off."""
    name = data.draw(st.sampled_from([*setting.names, *setting.negative_names]))
    return name, opposite(value) if name in setting.negative_names else value


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.name)
@given(data=st.data())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_precedence(setting: Setting, data: st.DataObject, tmp_path: Path) -> None:
    """Of any sources together the strongest wins: flag, YAML, SM_, SM_VLLM_, the other environment names, fallback, default."""
    ladder = ["flag", "YAML", "SM_", "SM_VLLM_", *setting.option.environment, "fallback"]
    sources = data.draw(st.lists(st.sampled_from(ladder), unique=True))
    argv, environ, fallbacks, expected = [], {}, {}, (setting.default, "default")
    for source in sorted(sources, key=ladder.index, reverse=True):  # the strongest comes last
        value = data.draw(values_of(setting))
        name, written = spelled(setting, value, data)
        variable = name.replace("-", "_").upper() if source.startswith("SM_") else ""
        match source:
            case "flag":
                flags = [f"--{name}"] if written is True else [f"--{name}={to_text(setting, written)}"]
                argv += flags
                expected = (value, f"--{name}")
            case "YAML":
                path = tmp_path / "options.yaml"
                path.write_text(yaml.safe_dump({name: written}), encoding="utf-8")
                argv.append(f"--config={path}")
                expected = (setting.default if value is None else value, f"YAML {path}:{name}")
            case "fallback":
                fallbacks = {setting.name: (value, "the image")}
                expected = (value, "the image")
            case _:
                held = value if source in setting.option.environment else written
                place = source + variable
                environ[place] = json.dumps(to_text(setting, held))
                stripped = value.strip() if setting.kind is Kind.TEXT and isinstance(value, str) else value
                expected = (stripped, f"environment {place}")
    assert effective(setting, argv, environ, fallbacks) == expected
