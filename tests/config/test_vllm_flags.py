"""What is done with each of vLLM's options that deployments use, held in one table: taken, refused with advice, or met already."""

from __future__ import annotations

from pathlib import Path

import pytest

from headway.server.config.sources import all_names, resolve
from headway.server.config.vllm_flags import inverse
from headway.server.errors import ConfigError


def names_in(text: str) -> list[str]:
    return text.split()


TAKEN = names_in("""
    model tokenizer revision hf-token served-model-name dtype max-model-len max-logprobs quantization seed generation-config
    override-generation-config load-format download-dir use-tqdm-on-load ignore-patterns chat-template
    chat-template-content-format trust-request-chat-template default-chat-template-kwargs response-role gpu-memory-utilization
    kv-cache-dtype enable-prefix-caching block-size kv-cache-memory-bytes num-gpu-blocks-override max-num-batched-tokens
    max-num-seqs enable-chunked-prefill scheduling-policy long-prefill-token-threshold max-num-scheduled-tokens
    max-num-active-seqs watermark max-num-queued-reqs enable-lora max-loras max-lora-rank lora-modules host port root-path
    shutdown-timeout api-key disable-fastapi-docs enable-request-id-headers stream-interval sse-keep-alive-interval
    return-tokens-as-token-ids enable-per-request-metrics fingerprint-mode fingerprint-value enable-tokenizer-info-endpoint
    enable-prompt-tokens-details enable-force-include-usage log-level uvicorn-log-level disable-uvicorn-access-log
    disable-log-stats fail-on-environ-validation uds ssl-keyfile ssl-certfile ssl-ca-certs ssl-cert-reqs enable-ssl-refresh ssl-ciphers
    api-server-count allowed-origins allowed-methods allowed-headers allow-credentials middleware enable-log-requests
    enable-log-outputs max-log-len log-error-stack disable-access-log-for-endpoints enable-server-load-tracking max-num-queued-tokens
    otlp-traces-endpoint enable-auto-tool-choice tool-call-parser reasoning-parser exclude-tools-when-tool-choice-none
    enable-sleep-mode custom-histogram-buckets h11-max-incomplete-event-size h11-max-header-count
    kv-offloading-size async-scheduling data-parallel-size enable-expert-parallel tensor-parallel-size distributed-executor-backend
    tokenizer-revision prefill-context-parallel-size enable-eplb eplb-config
    compilation-config decode-context-parallel-size cp-kv-cache-interleave-size dcp-kv-cache-interleave-size
    attention-backend logits-processors runner convert pooler-config hf-overrides structured-outputs-config speculative-config
""")

# Options of a deployment -> a value that is refused, and what the sentence says of it.
REFUSED = {
    "logging-config": ('{"log_level": "INFO"}', "write --log-level"),
    "allowed-local-media-path": ("/media", "serves text only"),
    "allowed-media-domains": ("a.example", "serves text only"),
    "attention-config": ('{"backend": "FLASH_ATTN"}', "chosen by --attention-backend"),
    "dcp-comm-backend": ("ag_rs", "leave it out"),
    "cpu-offload-gb": ("4", "weights stay in the device's memory"),
    "data-parallel-backend": ("ray", "are all on this host, behind one server"),
    "data-parallel-size-local": ("1", "put `headway router` before the servers of several hosts"),
    "device-ids": ("0", "name those to use in CUDA_VISIBLE_DEVICES"),
    "expert-placement-strategy": ("round_robin", "add --enable-eplb to have them moved by their load"),
    "kv-events-config": ('{"enable_kv_cache_events": true}', "sends requests by their beginnings without it"),
    "kv-offloading-backend": ("lmcache", "offloaded by Headway itself"),
    "limit-mm-per-prompt": ('{"image": 1}', "serves text only"),
    "nnodes": ("2", "--distributed-executor-backend ray is what spreads a model over hosts"),
    "mm-processor-cache-gb": ("4", "serves text only"),
    "mm-processor-kwargs": ('{"a": 1}', "serves text only"),
    "optimization-level": ("3", "CUDA graphs have options of their own"),
    "reasoning-parser-plugin": ("p.py", "only the parsers of Headway are there"),
    "spec-method": ("ngram", "write it in --speculative-config"),
    "spec-model": ("m", "write it in --speculative-config"),
    "spec-tokens": ("3", "write it in --speculative-config"),
    "tokenizer-mode": ("mistral", "the tokenizer is read as Hugging Face's tokenizers library reads it"),
    "tool-parser-plugin": ("p.py", "only the parsers of Headway are there"),
    "tool-server": ("demo", "let the client run them"),
    "tool-strict-level": ("function", "set strict to false"),
}

# (option, value) that asks for what is done anyway: accepted from every source, and without effect.
MET = [
    ("data-parallel-backend", "mp"),
    ("dcp-comm-backend", "a2a"),
    ("nnodes", "1"),
    ("expert-placement-strategy", "linear"),
    ("disable-custom-all-reduce", "true"),
    ("disable-custom-all-reduce", "false"),
    ("tokenizer-mode", "auto"),
    ("tokenizer-mode", "hf"),
    ("config-format", "hf"),
    ("optimization-level", "0"),
    ("cpu-offload-gb", "0"),
    ("kv-offloading-backend", "native"),
    ("limit-mm-per-prompt", "{}"),
]

NAMES = all_names()


def problems_of(argv: list[str], environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        resolve(["demo", *argv], environ or {})
    return caught.value.problems


def ways(name: str, value: str, folder: Path) -> list[tuple[list[str], dict[str, str]]]:
    """An option as a flag in both forms, in a file, and in the environment."""
    file = folder / "options.yaml"
    file.write_text(f"{name}: {value}\n")
    flags = [[f"--{name}={value}"], [f"--{name}", value], [f"--config={file}"]]
    return [*((flag, {}) for flag in flags), ([], {"SM_VLLM_" + name.replace("-", "_").upper(): value})]


@pytest.mark.parametrize("name", TAKEN)
def test_taken(name: str) -> None:
    assert NAMES.find(name) is not None


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_what_to_do(name: str, tmp_path: Path) -> None:
    value, sentence = REFUSED[name]
    for argv, environ in ways(name, value, tmp_path):
        (problem,) = problems_of(argv, environ)
        assert "is an option of vLLM that is not supported by this version of Headway; " in problem
        assert sentence in problem


@pytest.mark.parametrize(("name", "value"), MET)
def test_met(name: str, value: str, tmp_path: Path) -> None:
    for argv, environ in ways(name, value, tmp_path):
        resolved = resolve(["demo", *argv], environ)
        assert resolved.sources.keys() == {"model"}
        assert resolved.warnings == ()


@pytest.mark.parametrize(
    "argv",
    [
        ["--disable-custom-all-reduce"],
        ["-n=1"],
        ["-n1"],
        ["-n", "1", "-dpb", "mp"],
        ["-O0"],
        ["-O", "0"],
        ["-O=0"],
        ["--data_parallel_backend", "mp"],
    ],
)
def test_met_spellings(argv: list[str]) -> None:
    assert resolve([*argv, "demo"], {}).config.model.model == "demo"
    assert resolve(["demo", *argv], {}).sources.keys() == {"model"}


@pytest.mark.parametrize(
    ("argv", "label"),
    [
        (["-n", "4"], "-n"),
        (["-n4"], "-n4"),
        (["-O3"], "-O3"),
        (["--enable-custom-all-reduce=x"], "--enable-custom-all-reduce"),
        (["--nnodes"], "--nnodes"),
        (["--nnodes", "01"], "--nnodes"),
    ],
)
def test_not_met_spellings(argv: list[str], label: str) -> None:
    (problem,) = problems_of(argv)
    assert problem.startswith(f"{label}: is an option of vLLM that is not supported by this version of Headway; ")


@pytest.mark.parametrize("argv", [["-tp", "3"], ["-tp=3"], ["-tp3"], ["--tensor_parallel_size", "3"]])
def test_spellings_of_the_tensor_parallel_size(argv: list[str]) -> None:
    assert resolve([*argv, "demo"], {}).config.parallel.tensor_parallel_size == 3


def test_the_tables_are_about_options_of_vllm_that_are_not_taken() -> None:
    """What became an option of ours, or is none of vLLM's, must leave server/config/vllm_flags.json."""
    vllm = NAMES.vllm
    for name in {*vllm.with_advice, *vllm.with_met_values}:
        assert name in vllm.known
        assert NAMES.find(name) is None, f"{name} is taken now"
    assert {name for name, _ in MET} <= set(vllm.with_met_values)
    assert not set(TAKEN) & REFUSED.keys()
    assert all(name in vllm.known or inverse(name) in vllm.known for name in (*TAKEN, *REFUSED) if name != "model")
