"""The demo model's tokenizer, ours and transformers'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from demo_model import demo_files

from headway.server.text.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(scope="session")
def demo_tokenizer() -> Tokenizer:
    files = demo_files()
    return load_tokenizer(files, None, Path("/nonexistent"))


@pytest.fixture(scope="session")
def reference_tokenizer() -> Any:
    from transformers import AutoTokenizer

    path = demo_files().path
    return AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
