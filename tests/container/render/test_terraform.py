"""HCL: parsed, its arguments held against the provider's, and judged by terraform itself where it is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import hcl2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rendering import BASIC, CASES, deployment

from headway.container.render.terraform import render

ARGUMENTS = json.loads(Path(__file__).with_name("terraform_arguments.json").read_text())
_META = {"depends_on", "lifecycle"}
_MIRROR = os.environ.get("HEADWAY_TERRAFORM_PROVIDERS")
needs_terraform = pytest.mark.skipif(shutil.which("terraform") is None, reason="terraform is not installed")
# What could end a literal or begin a template in one of the languages that texts pass through.
HOSTILE = [
    *("${var.x}", "%{ if true }", "$${a}", "$$${a}", "%%{a}", "$", "%", "${", "a\nb", '"', '\\"', "\\", "\\n", "\t", "\r\n"),
    *(
        "\x00"[:0],
        "\x07\x1b[31m",
        "\u2028",
        "\u202e",
        "é",
        "😀",
        "}\n}",
        "EOT\n",
        "<<EOT",
        "#",
        "//",
        "/*",
        "'",
        "`id`",
        "$(id)",
        "yes",
        "1e3",
    ),
]


def parsed(text: str) -> dict[str, Any]:
    """Without the parser's own marks; strings stay quoted."""
    return _plain(hcl2.loads(text))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key.strip('"'): _plain(item) for key, item in value.items() if not key.startswith("__")}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def resources(text: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {(kind, name): body for item in parsed(text)["resource"] for kind, named in item.items() for name, body in named.items()}


def unknown(body: dict[str, Any], known: dict[str, Any]) -> list[str]:
    """Arguments and blocks that the provider has not."""
    found = []
    for name, value in body.items():
        if name not in known:
            found.append(name)
        elif known[name] is not None:
            found += [f"{name}.{inner}" for block in value for inner in unknown(block, known[name])]
    return found


@pytest.mark.parametrize("case", CASES)
def test_arguments_are_the_providers(case: str) -> None:
    found = resources(render(deployment(*CASES[case])))
    assert ("aws_sagemaker_endpoint", "endpoint") in found
    for (kind, _), body in found.items():
        assert unknown({name: value for name, value in body.items() if name not in _META}, ARGUMENTS[kind]) == []


def test_what_is_wired_to_what() -> None:
    found = resources(render(deployment(*CASES["model data, scaled"])))
    model = found["aws_sagemaker_model", "model"]
    assert model["execution_role_arn"] == "${aws_iam_role.execution.arn}"
    config = found["aws_sagemaker_endpoint_configuration", "endpoint_config"]
    assert config["name_prefix"] == '"headway-"'
    assert config["production_variants"][0]["model_name"] == "${aws_sagemaker_model.model.name}"
    assert config["production_variants"][0]["routing_config"] == [{"routing_strategy": '"LEAST_OUTSTANDING_REQUESTS"'}]
    assert config["lifecycle"] == [{"create_before_destroy": True}]
    assert found["aws_appautoscaling_target", "target"]["depends_on"] == ["${aws_sagemaker_endpoint.endpoint}"]


def test_role_is_made_given_or_asked_for() -> None:
    made, given_, asked = (render(deployment(*CASES[case])) for case in ("basic", "role", "no iam"))
    assert ("aws_iam_role", "execution") in resources(made)
    assert not any(kind.startswith("aws_iam") for text in (given_, asked) for kind, _ in resources(text))
    assert resources(asked)["aws_sagemaker_model", "model"]["execution_role_arn"] == "${var.execution_role_arn}"
    assert list(parsed(asked)["variable"][0]) == ["execution_role_arn"]


@needs_terraform
@pytest.mark.parametrize("case", CASES)
def test_text_is_as_terraform_formats_it(case: str) -> None:
    text = render(deployment(*CASES[case]))
    done = subprocess.run(["terraform", "fmt", "-check", "-diff", "-"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_terraform
@pytest.mark.skipif(_MIRROR is None, reason="HEADWAY_TERRAFORM_PROVIDERS names no mirror of hashicorp/aws")
@pytest.mark.parametrize("case", CASES)
def test_provider_takes_it(case: str, tmp_path: Path) -> None:
    (tmp_path / "main.tf").write_text(render(deployment(*CASES[case])))
    for words in (("init", "-backend=false", f"-plugin-dir={_MIRROR}"), ("validate",)):
        done = subprocess.run(["terraform", *words, "-no-color"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@needs_terraform
def test_texts_mean_what_they_were(tmp_path: Path) -> None:
    environ = {f"V{number}": text for number, text in enumerate(HOSTILE)}
    text = render(replace(PLAIN, environ=environ))
    start = text.index("environment = {") + len("environment = ")
    expression = text[start : text.index("\n    }", start)] + "\n    }"
    (tmp_path / "main.tf").write_text(f"locals {{\n  environment = {expression}\n}}\n")
    command = ["terraform", "console", "-no-color"]
    done = subprocess.run(command, input="jsonencode(local.environment)\n", cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(json.loads(done.stdout)) == environ


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.from_regex(r"[A-Z_]{1,8}", fullmatch=True), st.text(st.characters(exclude_categories=["Cs"])), max_size=4))
def test_no_value_gets_out_of_its_literal(environ: dict[str, str]) -> None:
    found = resources(render(replace(PLAIN, environ=environ)))
    assert list(found) == list(resources(render(PLAIN)))
    assert set(found["aws_sagemaker_model", "model"]["primary_container"][0]["environment"]) == set(environ)


PLAIN = deployment(*BASIC)
