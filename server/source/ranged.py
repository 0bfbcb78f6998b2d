"""Files that arrive in parts, several at a time, and go on after a kill with the parts that are missing."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

# A part is what a kill can cost. One connection to S3 gives 50 to 90 MB/s, so a part takes a fraction of a second.
PART_BYTES = 16 << 20
NUM_THREADS = 16


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes [start, start + num_bytes) of a file."""

    index: int
    start: int
    num_bytes: int


class PartialFile:
    """A file of known size that is written part by part, in any order and from several threads.

    ```
    path   [ part 0 ][ part 1 ][  hole  ][ part 3 ]       its full length from the start, with holes
    log    {"version": ..., "size": ..., "part_bytes": ...}\\n0\\n3\\n1\\n
    ```
    A part is in the log once its bytes are in the file. A log of another version, size or part size starts the file afresh, and a
    line that a kill cut short doesn't count.
    """

    def __init__(self, path: Path, log: Path, *, size: int, version: str, part_bytes: int = PART_BYTES) -> None:
        self.path = path
        self._log = log
        self._size = size
        self._part_bytes = part_bytes
        self._lock = threading.Lock()
        self._header = json.dumps({"version": version, "size": size, "part_bytes": part_bytes})
        done = self._read_log()
        if done is None:
            self._begin()
        self._done = done or set()

    def missing(self) -> list[Part]:
        """The parts that are not there yet, in order."""
        return [part for part in self._parts() if part.index not in self._done]

    def missing_bytes(self) -> int:
        return sum(part.num_bytes for part in self.missing())

    def write(self, part: Part, pieces: Iterable[bytes]) -> None:
        """Writes a part whose bytes come in `pieces`; what these raise leaves the part missing. Each thread a part of its own."""
        with open(self.path, "r+b") as file:
            file.seek(part.start)
            num_bytes = sum(file.write(piece) for piece in pieces)
        assert num_bytes == part.num_bytes, "whoever reads the parts has compared the lengths"
        with self._lock, open(self._log, "a", encoding="utf-8") as log:
            log.write(f"{part.index}\n")
            self._done.add(part.index)

    def discard(self) -> None:
        """Forgets the file and its parts."""
        self.path.unlink(missing_ok=True)
        self._log.unlink(missing_ok=True)

    def _parts(self) -> Iterator[Part]:
        for index, start in enumerate(range(0, self._size, self._part_bytes)):
            yield Part(index, start, min(self._part_bytes, self._size - start))

    def _read_log(self) -> set[int] | None:
        """The parts that are there; None where there is nothing to go on with."""
        if not self._log.is_file() or not self.path.is_file() or self.path.stat().st_size != self._size:
            return None
        header, *lines = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
        if header != self._header:
            return None
        return {int(line) for line in lines[:-1] if line.isdecimal()}

    def _begin(self) -> None:
        self.discard()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "xb") as file:
            file.truncate(self._size)
        self._log.write_text(self._header + "\n", encoding="utf-8")


def fetch_missing(files: Sequence[PartialFile], fetch: Callable[[PartialFile, Part], None], num_threads: int = NUM_THREADS) -> None:
    """Calls `fetch` for each missing part of `files`, at most `num_threads` at a time. The first that fails ends all and is raised;
    the parts that are done by then stay."""
    with ThreadPoolExecutor(num_threads, thread_name_prefix="fetch") as pool:
        futures = [pool.submit(fetch, file, part) for file in files for part in file.missing()]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
