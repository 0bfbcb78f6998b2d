"""A process that compiles grammars before anybody else does: the library bounds neither the time nor the memory that one takes.

It ends with its standard input, or by the kernel once a grammar takes more than it may. ``trials`` is the other side.
"""

from __future__ import annotations

import resource
import signal
import sys
from typing import TYPE_CHECKING

import msgspec

from headway.server.text.grammars.library import compiled, compiling_pool, try_out
from headway.server.text.grammars.vocabulary import Vocabulary, tokenizer_of

if TYPE_CHECKING:
    import llguidance

# The slowest grammar of a use that we know of takes 0.5 s; a few characters of "&" or multipleOf take hours (2026-11-25).
MAX_CPU_S = 5.0
_MAX_MEMORY = 2 << 30


def main() -> None:
    """The first line is a Vocabulary, each further one a grammar in the library's form; answers with the reason against it, or null."""
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY, _MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    tokenizer = tokenizer_of(msgspec.json.decode(sys.stdin.buffer.readline(), type=Vocabulary))
    pool = compiling_pool()
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, MAX_CPU_S)  # whose signal ends the process, wherever it is
        reason = pool.submit(_reason_against, msgspec.json.decode(line, type=str), tokenizer).result()
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(msgspec.json.encode(reason) + b"\n")
        sys.stdout.buffer.flush()


def _reason_against(form: str, tokenizer: llguidance.LLTokenizer) -> str | None:
    try:
        try_out(compiled(form, tokenizer), tokenizer.vocab_size - 1)  # without the end
    except ValueError as problem:
        return str(problem)
    return None


if __name__ == "__main__":
    main()
