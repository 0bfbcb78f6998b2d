"""What SageMaker refuses in a model's Environment (ContainerDefinition in botocore's model of the API). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from headway.server.words import first_few

MAX_ENTRIES = 100
MAX_NAME_BYTES = 1024
MAX_VALUE_BYTES = 1024
MAX_TOTAL_BYTES = 32 * 1024
VARIABLE_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)


def environment_problems(environ: Mapping[str, str]) -> list[str]:
    """A sentence for each limit that this Environment goes over."""
    found = []
    if len(environ) > MAX_ENTRIES:
        found.append(f"Environment has {len(environ)} entries, and SageMaker takes {MAX_ENTRIES}: move options into a --config file")
    if odd := [name for name in environ if not VARIABLE_NAME.fullmatch(name) or len(name) > MAX_NAME_BYTES]:
        found.append(f"Environment names must be letters, digits and underscores, at most {MAX_NAME_BYTES}: rename {first_few(odd)}")
    for name, value in environ.items():
        if (size := len(value.encode())) > MAX_VALUE_BYTES:
            found.append(
                f"environment {name} has {size} bytes, and SageMaker takes {MAX_VALUE_BYTES} a value: put it into a file and name that "
                f"with {name}_FILE, give file:// or s3:// as the value, or split it over {name}_0, {name}_1, ..."
            )
    total = sum(len(name.encode()) + len(value.encode()) for name, value in environ.items())
    if total > MAX_TOTAL_BYTES:
        found.append(f"Environment has {total} bytes in all, and SageMaker takes {MAX_TOTAL_BYTES}: move options into a --config file")
    return found
