"""What is said, at start, of code that can't be used; and what the shim offers."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from custom_scripts import Scripts

from headway.server.api.sagemaker.custom.loading import load_custom_handlers
from headway.server.config.sagemaker import SagemakerConfig
from headway.server.errors import ConfigError


def problem(scripts: Scripts, **options: Any) -> str:
    config = SagemakerConfig(enable_custom_handlers=True, custom_script_directory=str(scripts.directory), **options)
    with pytest.raises(ConfigError) as raised:
        load_custom_handlers(config)
    (sentence,) = raised.value.problems
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("x = 1\nundefined_name", 5, "NameError: name 'undefined_name' is not defined"),
        ("def broken(:\n", 4, "SyntaxError"),
        ("import no_such_package", 4, "ModuleNotFoundError"),
        ("raise SystemExit(0)", 4, "SystemExit: 0"),
        ("from model_hosting_container_standards.sagemaker import inject_adapter_id", 4, "ImportError"),
        ("sagemaker_standards.inject_adapter_id('x')", 4, "has no inject_adapter_id; it has custom_invocation_handler,"),
        ("@sagemaker_standards.custom_middleware('other')\ndef f(): pass", 4, "custom_middleware takes throttle or pre_post_process"),
        ("@sagemaker_standards.input_formatter\n@sagemaker_standards.input_formatter\ndef f(r): pass", 4, "there can be one only"),
    ],
)
def test_a_script_that_fails_is_named_with_its_line(
    scripts: Scripts, text: str, line: int, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    scripts.write(text)
    sentence = problem(scripts)
    assert sentence.startswith(f"--custom-script: {scripts.directory}/model.py, line {line}: ")
    assert what in sentence
    assert "Traceback" in caplog.text


def test_an_error_below_the_script_names_the_script_s_line(scripts: Scripts) -> None:
    scripts.write("json.loads('{')")
    assert f"{scripts.directory}/model.py, line 4: JSONDecodeError" in problem(scripts)


def test_a_missing_script_is_named_with_the_places(scripts: Scripts) -> None:
    assert f"looked for {scripts.directory}/model.py and {scripts.directory}/code/model.py" in problem(scripts)
    assert f"{scripts.directory}/mine.py" in problem(scripts, custom_script="mine.py", custom_ping_handler="/health")


@pytest.mark.parametrize(
    ("specification", "what"),
    [
        ("model:nothing", "model has no nothing"),
        ("model:number", "model:number is no function but of type int"),
        ("model", "expected file.py:function, model:function or package.module:function, got 'model'"),
        ("a:b:c", "expected file.py:function"),
        ("other.py:f", "there is no other.py; looked for"),
        ("no_such_package:f", "there is no module no_such_package: install it, or put the folder that has it on PYTHONPATH"),
        ("/nowhere", "/nowhere is no POST route of this server; it has /ping, /invocations, "),
        ("/version", "/version is no POST route"),
        ("model:two", "two must take (request), it takes (a, b)"),
        ("model:keyword", "keyword must take (request), it takes (*, a)"),
    ],
)
def test_an_option_that_names_nothing_of_use(scripts: Scripts, specification: str, what: str) -> None:
    scripts.write("number = 1\ndef two(a, b): pass\ndef keyword(*, a): pass")
    sentence = problem(scripts, custom_invocation_handler=specification)
    assert sentence.startswith("--custom-invocation-handler: ")
    assert what in sentence


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "@sagemaker_standards.custom_ping_handler\ndef f(a, b): pass",
            "by decorator: f must take (request), it takes (a, b)",
        ),
        (
            "def custom_sagemaker_ping_handler(a, b): pass",
            "by its name: custom_sagemaker_ping_handler must take (request)",
        ),
        (
            "@sagemaker_standards.output_formatter\ndef f(a, b): pass",
            "by decorator: f must take (response), it takes (a, b)",
        ),
    ],
)
def test_a_function_of_the_script_that_can_t_be_called(scripts: Scripts, text: str, sentence: str) -> None:
    scripts.write(text)
    assert problem(scripts).startswith(f"--custom-script, {sentence}")


def test_the_log_tells_which_code_answers(scripts: Scripts, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "headway")
    scripts.write("@sagemaker_standards.custom_ping_handler\n@sagemaker_standards.custom_invocation_handler\ndef f(): pass")
    config = {"custom_script_directory": str(scripts.directory), "custom_invocation_handler": "/v1/completions"}
    load_custom_handlers(SagemakerConfig.model_validate(config))
    assert "/ping by f (--custom-script, by decorator), /invocations by /v1/completions, 0 middleware" in caplog.text


def test_middleware_must_be_async(scripts: Scripts) -> None:
    scripts.write("def around(request, call_next): pass")
    sentence = problem(scripts, custom_throttle_middleware="model:around")
    assert sentence == "--custom-throttle-middleware: around must be an async function: it awaits call_next"


def test_a_script_is_run_once_however_often_it_is_named(scripts: Scripts) -> None:
    scripts.write("with open(__file__ + '.runs', 'a') as runs: runs.write('x')\ndef f(): pass")
    options = SagemakerConfig(
        enable_custom_handlers=True,
        custom_script_directory=str(scripts.directory),
        custom_ping_handler="model:f",
        custom_invocation_handler=f"{scripts.directory}/model.py:f",
        custom_pre_process="model.py:f",
    )
    load_custom_handlers(options)
    assert (scripts.directory / "model.py.runs").read_text() == "x"


def test_an_installed_package_of_that_name_is_left_alone_and_told(scripts: Scripts, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [name for name in sys.modules if name.partition(".")[0] == "model_hosting_container_standards"]:
        monkeypatch.delitem(sys.modules, name)
    installed = scripts.directory / "site" / "model_hosting_container_standards"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    (installed / "sagemaker.py").write_text("def custom_ping_handler(f): return f")
    monkeypatch.syspath_prepend(str(installed.parent))
    scripts.write("")
    assert "uninstall it" in problem(scripts)
    for name in [name for name in sys.modules if name.partition(".")[0] == "model_hosting_container_standards"]:
        monkeypatch.delitem(sys.modules, name)


def test_the_script_s_own_log_lines_are_kept(scripts: Scripts, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "headway")
    scripts.write("""
import logging
from model_hosting_container_standards.logging_config import logger
logging.getLogger(__name__).info("by its own logger")
logger.info("by the shim's")
""")
    load_custom_handlers(SagemakerConfig(enable_custom_handlers=True, custom_script_directory=str(scripts.directory)))
    assert "by its own logger" in caplog.text
    assert "by the shim's" in caplog.text
    assert "/ping by ours" in caplog.text
