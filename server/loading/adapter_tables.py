"""What adapters say of the two tables over the vocabulary beside their updates.

PEFT saves a copy of each table that an adapter changes (``save_embedding_layers``, which is on then unless it is told otherwise), and
computes with the copy. It changes nothing where it is the model's own table, which this checks, and is refused where it is another one:
trained in full, of another model, or of more tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from headway.server.errors import AdapterError, ModelSourceError
from headway.server.models.base import ReadPlain

MORE_TOKENS = "adapters with more tokens than the model are not served"
_ROWS_COMPARED = 4096
_DTYPES = ("F32", "F16", "BF16")
_TRAINED_IN = (torch.bfloat16, torch.float16)  # what a table may have been rounded to before the copy was made


def check_copy(copy: Any, module: str, table: str, shape: tuple[int, int], read_plain: ReadPlain | None) -> None:
    """``copy``: the slice of ``module`` [V, H] in the adapter's file; ``table``: the checkpoint's name of the model's own, of this shape.

    Raises AdapterError where they differ, or the model's own can't be read."""
    found = tuple(copy.get_shape())
    if found != shape:
        raise AdapterError(
            f"The adapter can't be loaded: it has its own {module} {list(found)}, and this model's is {list(shape)}; {MORE_TOKENS}."
        )
    if copy.get_dtype() not in _DTYPES:
        raise AdapterError(f"The adapter can't be loaded: its own {module} has the type {copy.get_dtype()}; use fp32, fp16 or bf16.")
    try:
        own = read_plain(table) if read_plain is not None else None
    except ModelSourceError:
        own = None  # gone since the start
    if own is None:
        raise AdapterError(
            f"The adapter can't be loaded: it has a copy of {module}, and the model's files hold no {table} to compare it with; save the "
            "adapter with save_embedding_layers=False."
        )
    for first in range(0, shape[0], _ROWS_COMPARED):
        rows = slice(first, first + _ROWS_COMPARED)
        if not _is_copy(copy[rows], own[rows]):
            raise AdapterError(
                f"The adapter can't be loaded: it has a {module} that is not this model's; layers trained in full are not served, "
                "and if it was not, check that the adapter was trained for this model."
            )


def _is_copy(copy: Tensor, own: Tensor) -> bool:
    return any(torch.equal(copy, own.to(dtype).to(copy.dtype)) for dtype in (copy.dtype, *_TRAINED_IN))
