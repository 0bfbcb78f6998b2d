"""`headway bench engine` on a tiny model with random weights: the real engine, no HTTP."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headway.server.bench.cli import main
from headway.server.errors import ConfigError, ModelSourceError


@pytest.fixture
def tiny_model(tmp_path: Path) -> Path:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 300,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "eos_token_id": 2,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_the_engine_alone_is_measured(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "result.json"
    size = [
        "--num-prompts",
        "5",
        "--input-len",
        "20",
        "--prefix-len",
        "48",
        "--output-len",
        "6",
        "--concurrency",
        "2",
        "--temperature",
        "1",
    ]
    engine = ["--", "--load-format", "dummy", "--dtype", "float32", "--max-num-seqs", "4", "--kv-cache-memory-bytes", "4M"]
    assert main(["engine", "--model", str(tiny_model), *size, "--json", str(file), *engine]) == 0
    record = json.loads(file.read_text())
    result = record["result"]
    assert (result["num_requests"], result["num_errors"]) == (5, 0)
    assert (result["num_prompt_tokens"], result["num_output_tokens"]) == (5 * 68, 5 * 6)
    assert result["num_cached_tokens"] > 0  # the shared prefix, known since the warm-up
    assert result["ttft_ms"]["p50"] > 0
    assert record["engine"]["vocab_size"] == 300
    assert "TPOT ms" in capsys.readouterr().out


def test_what_the_engine_cannot_be_built_from_is_one_sentence(tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="--max-num-seqs"):
        main(["engine", "--model", str(tiny_model), "--", "--max-num-seqz", "4"])
    with pytest.raises(ConfigError, match=r"--data-parallel-size 2: one engine is measured here; .*`headway bench serve`"):
        main(["engine", "--model", str(tiny_model), "--", "-dp", "2"])
    with pytest.raises(ModelSourceError, match="does not exist"):
        main(["engine", "--model", str(tiny_model / "nothing")])
