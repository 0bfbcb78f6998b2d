"""The template, as cfn-lint judges it against the schemas of the resources."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml
from cfnlint.api import ManualArgs, lint
from hypothesis import given, settings
from hypothesis import strategies as st
from rendering import BASIC, CASES, ROLE, deployment

from headway.container.render.cloudformation import render
from headway.server.errors import ConfigError


def template(case: str) -> Any:
    return yaml.safe_load(render(deployment(*CASES[case])))


@pytest.mark.parametrize("case", CASES)
def test_template_is_without_errors_and_warnings(case: str) -> None:
    found = lint(render(deployment(*CASES[case])), config=ManualArgs(regions=["eu-west-1"], include_checks=["I"]))
    assert [f"{match.rule.id} {match.message}" for match in found] == []


def test_linter_sees_a_fault() -> None:
    text = render(deployment(*BASIC)).replace("InferenceAmiVersion", "InferenceAmi")
    assert lint(text, config=ManualArgs(regions=["eu-west-1"]))


def test_resources_refer_to_each_other() -> None:
    resources = template("model data, scaled")["Resources"]
    [variant] = resources["EndpointConfig"]["Properties"]["ProductionVariants"]
    assert variant["ModelName"] == {"Fn::GetAtt": ["Model", "ModelName"]}
    assert resources["Model"]["Properties"]["ExecutionRoleArn"] == {"Fn::GetAtt": ["Role", "Arn"]}
    assert resources["Target"]["DependsOn"] == ["Endpoint"]
    # CloudFormation replaces these when they change, which it refuses for names that were given.
    assert "ModelName" not in resources["Model"]["Properties"]
    assert "EndpointConfigName" not in resources["EndpointConfig"]["Properties"]


def test_role_is_made_given_or_asked_for() -> None:
    assert template("role")["Resources"]["Model"]["Properties"]["ExecutionRoleArn"] == ROLE
    asked = template("no iam")
    assert list(asked["Parameters"]) == ["ExecutionRoleArn"]
    assert asked["Resources"]["Model"]["Properties"]["ExecutionRoleArn"] == {"Ref": "ExecutionRoleArn"}
    for other in ("role", "no iam"):
        assert "Role" not in template(other)["Resources"]


def test_comments_say_why() -> None:
    text = render(deployment(*BASIC))
    above = text[: text.index("  EndpointConfig:")].splitlines()
    assert any(line.startswith("  # InferenceAmiVersion: ") for line in above)


def test_reference_of_cloudformation_is_refused() -> None:
    hostile = deployment(*BASIC, "-e", "NOTE={{resolve:secretsmanager:other:SecretString}}", target="cloudformation")
    with pytest.raises(ConfigError, match="environment NOTE: CloudFormation would put in plain text"):
        render(hostile)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.from_regex(r"[A-Z_]{1,8}", fullmatch=True), st.text(st.characters(exclude_categories=["Cs"]))))
def test_no_value_gets_out_of_its_scalar(environ: dict[str, str]) -> None:
    read = yaml.safe_load(render(replace(PLAIN, environ=environ)))
    assert read["Resources"]["Model"]["Properties"]["PrimaryContainer"]["Environment"] == environ
    assert list(read["Resources"]) == ["Role", "Model", "EndpointConfig", "Endpoint"]


PLAIN = deployment(*BASIC)
