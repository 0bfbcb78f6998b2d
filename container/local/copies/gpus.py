"""Which of the machine's GPUs a copy gets."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence

from headway.container.local.copies.base import CopyFailed
from headway.server.words import plural


class Gpus:
    """``names`` as the engine and CUDA_VISIBLE_DEVICES know them: indices or UUIDs. Copies share one where there are too few of them."""

    def __init__(self, names: Sequence[str]) -> None:
        self._num_users = Counter(dict.fromkeys(names, 0))

    @contextlib.contextmanager
    def lend(self, num: int) -> Iterator[list[str]]:
        """The least used ones, inside of the block. Raises CopyFailed."""
        if num > len(self._num_users):
            raise CopyFailed(f"takes {plural(num, 'GPU')}, and the runtime was given {len(self._num_users)} with --gpus.")
        lent = [name for name, _ in sorted(self._num_users.items(), key=lambda item: item[1])[:num]]
        self._num_users.update(lent)
        try:
            yield lent
        finally:
            self._num_users.subtract(lent)
