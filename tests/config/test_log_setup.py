"""From options to a logging that is set up: stream, prefix, colours, the user's dictConfig, none at all; secrets stay masked in all."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headway.server.cli import main
from headway.server.config.logs import LogConfig, log_problems, log_warnings
from headway.server.config.sources import resolve
from headway.server.errors import ConfigError
from headway.server.log import ACCESS_LOG, configure_logging
from headway.server.log_setup import set_up_logging

log = logging.getLogger("headway.x")
DICT_CONFIG: dict[str, Any] = {
    "version": 1,
    "formatters": {"mine": {"format": "%(role)s|%(name)s|%(levelname)s|%(message)s"}},
    "handlers": {"mine": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "mine"}},
    "root": {"handlers": ["mine"], "level": "DEBUG"},
}


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    """Whatever a test does to the global logging is undone."""
    root, factory = logging.getLogger(), logging.getLogRecordFactory()
    names = ("", "headway", ACCESS_LOG, "mine")
    before = [(logging.getLogger(name), logging.getLogger(name).level, logging.getLogger(name).handlers[:]) for name in names]
    yield
    logging.captureWarnings(False)
    logging.setLogRecordFactory(factory)
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers
    assert root is logging.getLogger()


def test_the_stream_the_prefix_and_colours(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(LogConfig(log_stream="stdout", log_prefix="[pod 7] ", log_color="always"), "api", ["s3cret"])
    log.warning("of s3cret")
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("[pod 7] 20")
    assert out.endswith(" \x1b[33mWARNING\x1b[0m api      of ***\n")


@pytest.mark.parametrize(("color", "is_terminal", "expected"), [("auto", False, False), ("auto", True, True), ("never", True, False)])
def test_colours_are_for_terminals(color: Any, is_terminal: bool, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    stream.isatty = lambda: is_terminal  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", stream)
    set_up_logging(LogConfig(log_color=color), "api")
    log.info("x")
    assert ("\x1b[" in stream.getvalue()) is expected


def test_json_has_a_prefix_as_a_field_and_numbers_as_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(LogConfig(log_format="json", log_prefix="pod 7", log_color="always"), "api", ["s3cret"])
    log.info("x", extra={"status": 200, "duration_s": 0.5, "prompt_tokens": 0, "api_key": "s3cret", "finish_reason": ""})
    line = json.loads(capsys.readouterr().err)
    del line["time"]
    assert line == {
        "level": "INFO", "role": "api", "message": "x", "prefix": "pod 7", "api_key": "***",
        "status": 200, "duration_s": 0.5, "prompt_tokens": 0,
    }  # fmt: skip


def test_the_access_log_has_a_level_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(LogConfig(log_level="ERROR"), "api")
    log.warning("not shown")
    logging.getLogger(ACCESS_LOG).info("shown")
    assert capsys.readouterr().err.splitlines()[0].endswith("INFO    api      shown")


@pytest.mark.parametrize("name", ["log.json", "log.yaml"])
def test_a_config_of_the_user_s_is_in_charge_but_for_secrets_and_lines(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_text(json.dumps(DICT_CONFIG) if name.endswith("json") else "version: 1\n" + _yaml())
    set_up_logging(LogConfig(log_config=str(path)), "engine", ["s3cret"])
    log.info("of %s\nFAKE|line", "s3cret")
    logging.getLogger("other").debug("shown")
    log.info("100%")
    log.info("fits %s", "well")
    try:
        raise ValueError("with s3cret")
    except ValueError:
        log.exception("broke")
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == ""
    assert lines[:5] == [
        "engine|headway.x|INFO|of ***\\nFAKE|line", "engine|other|DEBUG|shown", "engine|headway.x|INFO|100%",
        "engine|headway.x|INFO|fits well", "engine|headway.x|ERROR|broke",
    ]  # fmt: skip
    assert lines[-1] == "ValueError: with ***"


def _yaml() -> str:
    import yaml

    return yaml.safe_dump({name: value for name, value in DICT_CONFIG.items() if name != "version"})


def test_loggers_that_a_config_does_not_name_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log.json"
    path.write_text(json.dumps({**DICT_CONFIG, "root": {}, "loggers": {"mine": {"handlers": ["mine"], "propagate": False}}}))
    set_up_logging(LogConfig(log_config=str(path)), "api")
    log.info("ours")
    logging.getLogger("mine").warning("yours")
    out, err = capsys.readouterr()
    assert "mine|WARNING|yours" in out
    assert not log.disabled
    assert "ours" in err + out


def test_a_logging_that_is_left_alone_still_masks(caplog: pytest.LogCaptureFixture) -> None:
    handlers = logging.getLogger().handlers[:]
    set_up_logging(LogConfig(configure_logging=False), "api", ["s3cret"])
    assert logging.getLogger().handlers == handlers
    log.warning("of s3cret\nand more")
    log.warning("does not fit %d", "x" if not handlers else 1)
    assert caplog.records[0].getMessage() == "of ***\\nand more"
    assert caplog.records[0].role == "api"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "can't be read: No such file or directory"),
        ("[", "is neither JSON nor YAML: while parsing a flow node expected the node content, but found '<stream end>'"),
        ("[1]", "must hold an object as logging.config.dictConfig takes it, such as "),
        ("just text", "must hold an object as logging.config.dictConfig takes it, such as "),
        ("{}", "is not what Python's logging takes: dictionary doesn't specify a version"),
        ('{"version": 1, "handlers": {"a": {"class": "no.such.Handler"}}}',
         "is not what Python's logging takes: Unable to configure handler 'a': Cannot resolve 'no.such.Handler'"),
        ('{"version": 1, "root": {"handlers": ["none"]}}', "is not what Python's logging takes: Unable to configure root logger"),
    ],
)  # fmt: skip
def test_a_config_that_can_not_be_used(content: str | None, why: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        set_up_logging(LogConfig(log_config=str(path)), "api")
    (problem,) = caught.value.problems
    assert problem.startswith(f"--log-config {path}: {why}")
    assert "\n" not in problem


def test_what_contradicts_and_what_has_no_effect() -> None:
    assert log_problems(LogConfig(log_config="x", configure_logging=False)) == [
        "--log-config can't be used with --no-configure-logging, which leaves logging as it is: leave one of them out"
    ]
    assert log_problems(LogConfig(log_prefix="a\nb")) == [
        "--log-prefix holds a line break or another control character; each event is one line"
    ]
    assert log_problems(LogConfig(disable_access_log_for_endpoints=["health"])) == [
        "--disable-access-log-for-endpoints must hold paths such as /health, got 'health'"
    ]
    assert log_warnings(LogConfig(log_prefix="x", log_stream="stdout", log_color="always")) == []
    assert len(log_warnings(LogConfig(log_prefix="x", log_stream="stdout", log_color="always", log_config="x"))) == 3
    assert len(log_warnings(LogConfig(log_prefix="x", configure_logging=False))) == 1
    assert len(log_warnings(LogConfig(log_format="json", log_color="always"))) == 1


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("VLLM_CONFIGURE_LOGGING", "0", "configure_logging", False),
        ("VLLM_LOGGING_CONFIG_PATH", "/x.json", "log_config", "/x.json"),
        ("SM_VLLM_LOG_CONFIG_FILE", "/x.json", "log_config", "/x.json"),
        ("VLLM_LOGGING_STREAM", "ext://sys.stdout", "log_stream", "stdout"),
        ("VLLM_LOGGING_PREFIX", "p ", "log_prefix", "p"),
        ("VLLM_LOGGING_COLOR", "0", "log_color", "never"),
        ("VLLM_LOGGING_LEVEL", "notset", "log_level", "DEBUG"),
        ("SM_LOG_LEVEL", "30", "log_level", "WARNING"),
    ],
)
def test_the_variables_of_vllm_are_options(name: str, text: str, field: str, value: object) -> None:
    assert getattr(resolve(["demo"], {name: text}).config.logs, field) == value


@pytest.mark.parametrize(
    ("environ", "words", "shown"),
    [
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, [], 'log-color: "never" # environment NO_COLOR'),
        ({"FORCE_COLOR": "yes please"}, [], 'log-color: "always" # environment FORCE_COLOR'),
        ({"NO_COLOR": ""}, [], 'log-color: "auto" # default'),
        ({"NO_COLOR": "1"}, ["--log-color", "1"], 'log-color: "always" # --log-color'),
    ],
)
def test_what_every_program_knows_about_colours(
    environ: dict[str, str], words: list[str], shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    for name, text in environ.items():
        monkeypatch.setenv(name, text)
    assert main(["serve", "demo", "--show-config", *words]) == 0
    assert shown in [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_repeating_is_safe(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "api")
    set_up_logging(LogConfig(), "api")
    log.info("once")
    assert capsys.readouterr().err.count("once") == 1
