"""The Hub library's progress bars, turned into our progress."""

from __future__ import annotations

import io
from typing import Any

from tqdm import tqdm

from headway.server.source.progress import Progress


def bar_telling(progress: Progress) -> type[Any]:
    """A bar for the library to make as many of as it likes: nothing is drawn, those that count bytes tell `progress`.

    Bytes may be counted twice, as they come and as they are written; `progress` gets the higher of both.
    """

    class Bar(tqdm):  # type: ignore[misc]
        monitor_interval = 0  # no thread that redraws

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **(options | {"file": io.StringIO(), "disable": False}))

        def update(self, n: float | None = 1) -> bool | None:
            is_drawn: bool | None = super().update(n)
            if self.unit == "B":
                progress.reach(int(self.n))
            return is_drawn

    return Bar
