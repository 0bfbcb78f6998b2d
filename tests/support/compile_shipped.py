"""Compiles two kernels with the cache that the server uses and prints, as JSON, which were found: {"norm": true, "silu": false}.

Arguments: the capability to compile for, and the directory of what is shipped. Run as a script, without TRITON_INTERPRET.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import triton
from compile_kernels import cases, compile_case

from headway.kernels.gpu import shipped_cache


def main(capability: int, shipped: Path) -> None:
    shipped_cache.SHIPPED = shipped
    found: dict[str, bool] = {}
    current = ""

    def listen(*, cache_hit: bool, **_: Any) -> None:
        found[current] = cache_hit

    triton.knobs.compilation.listener = listen
    for case in cases("bf16", capability=capability):
        if case[0] in ("norm", "silu") and case[0] not in found:
            current = case[0]
            assert compile_case(case, capability).asm["cubin"]
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
