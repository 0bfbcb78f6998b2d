"""What of vLLM's compilation config there is here: nothing is compiled, and one of its passes is a way to share work between ranks."""

from __future__ import annotations

from typing import Any

from headway.server.config.fields import Topic, option

_FLAG = "--compilation-config"
_ELSEWHERE = {
    "cudagraph_capture_sizes": "it has an option of its own, --cudagraph-capture-sizes",
    "max_cudagraph_capture_size": "it has an option of its own, --max-cudagraph-capture-size",
}


class CompilationConfig(Topic):
    """Compilation."""

    compilation_config: dict[str, Any] = option(
        {},
        'JSON: `{"pass_config": {"enable_sp": true}}` lets each device of --tensor-parallel-size keep its part of a step\'s tokens between '
        "the products that all share (sequence parallel). No other key is taken: nothing is compiled.",
        short=("-cc",),
    )

    @property
    def shards_tokens(self) -> bool:
        """Of a config that has no problems."""
        passes = self.compilation_config.get("pass_config")
        return isinstance(passes, dict) and bool(passes.get("enable_sp"))


def compilation_problems(compilation: CompilationConfig) -> list[str]:
    """A sentence for each thing that can't be served."""
    found = []
    for name, value in compilation.compilation_config.items():
        if name != "pass_config":
            found.append(f"{_FLAG}: {name!r}: {_ELSEWHERE.get(name, 'nothing is compiled here: leave it out')}")
        elif not isinstance(value, dict):
            found.append(f"{_FLAG}: pass_config must be an object, got {value!r}")
        else:
            found += [sentence for key, switch in value.items() if (sentence := _pass_problem(key, switch))]
    return found


def compilation_warnings(compilation: CompilationConfig, num_ranks: int) -> list[str]:
    """A sentence for what was asked for and has no effect."""
    if compilation.shards_tokens and num_ranks == 1:
        return [f"{_FLAG}: enable_sp has no effect on one device: it is for --tensor-parallel-size from 2 on"]
    return []


def _pass_problem(key: str, switch: Any) -> str | None:
    if key != "enable_sp":
        return f"{_FLAG}: pass_config: {key!r} is none of its keys here (enable_sp): leave it out"
    return None if isinstance(switch, bool) else f"{_FLAG}: pass_config: enable_sp must be true or false, got {switch!r}"
