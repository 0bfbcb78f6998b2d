"""Compiles two kernels with the cache that the server uses and prints, as JSON, which were found, and what the server would say of them:
[{"norm": true, "silu": false}, "1 of the image's, 0 kept from an earlier start, 1 compiled"].

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
from headway.kernels.kernel_tally import TALLY


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
    print(json.dumps([found, str(TALLY)]))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
