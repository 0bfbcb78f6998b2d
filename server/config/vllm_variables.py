"""The VLLM_* variables of an existing deployment that have no effect here, and what has it instead."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from headway.server.config.names import Names
from headway.server.config.variables import find_variables

_PREFIX = "VLLM_"
# What Kubernetes sets in every container for a service called vllm, or vllm-something: addresses, meant for nobody.
_OF_A_SERVICE = re.compile(r"VLLM_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


def without_effect(environ: Mapping[str, str], names: Names) -> dict[str, str]:
    """VLLM_* variable -> what to do instead, empty where there is nothing to say. The variables of options are not among them, nor
    what changes nothing: a switch for reports that are not sent, the address of a service."""
    candidates = [name for name in sorted(environ) if name.startswith(_PREFIX) and not _is_address(name, environ[name])]
    if not candidates:
        return {}
    table = json.loads((Path(__file__).parent / "vllm_variables.json").read_text())
    known = {variable.name for variable in find_variables(candidates, names).options} | set(table["nothing"])
    return {name: table["instead"].get(name, "") for name in candidates if name not in known}


def sentence_about(variables: Mapping[str, str]) -> str:
    """One line for all of them."""
    told = ", ".join(f"{name} ({instead})" if instead else name for name, instead in variables.items())
    return f"environment {told}: without effect here"


def _is_address(name: str, text: str) -> bool:
    return _OF_A_SERVICE.fullmatch(name) is not None or (name.endswith("PORT") and _ADDRESS.match(text) is not None)
