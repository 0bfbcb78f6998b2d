"""Options about CUDA graphs, and the sizes that follow from them."""

from __future__ import annotations

import re

from headway.server.config.fields import Topic, option

_LARGEST_BY_DEFAULT = 512
_WHOLE_NUMBER = re.compile(r"[1-9]\d{0,8}", re.ASCII)


class GraphsConfig(Topic):
    """CUDA graphs."""

    enforce_eager: bool = option(
        False, "Launch each kernel of a step from the host. Else a GPU replays CUDA graphs for steps that give each request one token."
    )
    cudagraph_capture_sizes: list[str] = option(
        [],
        "Numbers of requests for which a GPU captures a step; one with fewer is padded, one with more launched from the host. Default: 1, "
        "2, 4, every 8th up to 256, then every 16th.",
    )
    max_cudagraph_capture_size: int | None = option(
        None, f"Largest of the default sizes, 0: none. Default: --max-num-seqs, at most {_LARGEST_BY_DEFAULT}.", ge=0
    )


def graphs_problems(graphs: GraphsConfig) -> list[str]:
    """A sentence for each thing that can't be served."""
    sizes, largest = graphs.cudagraph_capture_sizes, graphs.max_cudagraph_capture_size
    found = [f"--cudagraph-capture-sizes: expected whole numbers from 1, got {text!r}" for text in sizes if not _is_size(text)]
    if sizes and not found and largest is not None and largest != max(map(int, sizes)):
        found.append(
            f"--max-cudagraph-capture-size {largest} is not the largest of --cudagraph-capture-sizes {' '.join(sizes)}: leave it out"
        )
    return found


def graph_sizes(graphs: GraphsConfig, max_num_seqs: int) -> tuple[int, ...]:
    """In rising order; ``max_num_seqs``, which no step exceeds, in the place of what is above it. Of options that have no problems."""
    if graphs.enforce_eager:
        return ()
    if graphs.cudagraph_capture_sizes:
        return tuple(sorted({min(int(size), max_num_seqs) for size in graphs.cudagraph_capture_sizes}))
    asked = graphs.max_cudagraph_capture_size
    largest = min(_LARGEST_BY_DEFAULT if asked is None else asked, max_num_seqs)
    steps = (1, 2, 4, *range(8, 257, 8), *range(272, largest, 16))
    return tuple(size for size in steps if size < largest) + ((largest,) if largest else ())


def _is_size(text: str) -> bool:
    return _WHOLE_NUMBER.fullmatch(text) is not None
