"""Vectors as answers show them: lists of numbers, or their bytes in base64."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from headway.server.api.protocol.pooling import VectorRequest
from headway.server.types import Pooled

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def values_of(pooled: Pooled) -> NDArray[np.float32]:
    """[rows, values]"""
    import numpy as np

    return np.frombuffer(pooled.data, dtype="<f4").reshape(pooled.num_rows, -1)


def shown_vectors(pooled: Pooled, request: VectorRequest, has_rows: bool) -> Any:
    """A vector, or a list of them with ``has_rows``; in base64 all of them in a row."""
    if request.encoding_format == "base64":
        return base64.b64encode(_bytes(pooled, request)).decode()
    values = values_of(pooled)
    return values.tolist() if has_rows else values[0].tolist()


def _bytes(pooled: Pooled, request: VectorRequest) -> bytes:
    order = ">" if request.endianness == "big" else "<"
    values = values_of(pooled)
    if request.embed_dtype == "bfloat16":
        bits = values.view("<u4")
        # To the nearest, halves to even: the upper half of a float32 is a bfloat16.
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return bytes(rounded.astype(f"{order}u2").tobytes())
    return values.astype(f"{order}f{2 if request.embed_dtype == 'float16' else 4}").tobytes()
