"""What travels to the server in its environment: secrets, which anybody on the host could read on its command line, and values too long
for one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from headway.entrypoint.argv import asked, fits_command_line, fits_exec
from headway.server.config.environment import unquoted
from headway.server.config.fields import SHORT_ENVIRONMENT_PREFIX
from headway.server.config.remote import region_of
from headway.server.config.sources import Resolved, all_names
from headway.server.config.values import to_text
from headway.server.config.variables import Form, find_variables
from headway.server.config.vllm_variables import without_effect


def environment_for_server(resolved: Resolved, environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` without our variables and those of secrets, and with each secret under one name, as the value itself: the server
    finds nothing to fetch again, nothing that contradicts, and no VLLM_* to warn of a second time (which a user's script may read)."""
    variables = find_variables(environ, all_names())
    ours = {v.name for v in variables.options if v.meaning.setting.option.secret or v.name.startswith(SHORT_ENVIRONMENT_PREFIX)}
    told = set() if resolved.config.sagemaker.enable_custom_handlers else without_effect(environ, all_names()).keys()
    child = {name: text for name, text in environ.items() if name not in ours.union(variables.config_files, told)}
    for setting, value in asked(resolved):
        if fits_command_line(setting, value) or not value:
            continue
        text = to_text(setting, value)
        quoted = text if unquoted(text) == text else json.dumps(text)
        # The name of old, where there is one: libraries know HF_TOKEN.
        name = (*setting.option.environment, *setting.environment_names)[0]
        if setting.option.secret and fits_exec(f"{name}={quoted}"):
            child[name] = quoted
        else:
            child[setting.environment_names[0] + Form.FILE] = _kept(text)
    if (region := region_of(environ)) and "AWS_DEFAULT_REGION" not in child:
        child["AWS_DEFAULT_REGION"] = region  # all that boto3 knows
    return child


def _kept(text: str) -> str:
    """The path of a file in memory that holds ``text`` and lives as long as this process, the server it becomes included."""
    descriptor = os.memfd_create("option", 0)
    os.set_inheritable(descriptor, True)
    with os.fdopen(descriptor, "w", encoding="utf-8", closefd=False) as file:
        file.write(text + "\n")
    return f"/proc/self/fd/{descriptor}"
