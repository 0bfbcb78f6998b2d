"""Precedence, provenance, and the sentence of each thing that can be wrong."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from headway.server.config.fields import Kind
from headway.server.config.server import secrets_of, without_secrets
from headway.server.config.sources import Resolved, all_names, all_settings, resolve
from headway.server.config.values import to_flags
from headway.server.errors import ConfigError

PORT = all_names().setting("port")
TASK = "use --runner pooling, and --convert embed or classify where the model's files do not say it"


def problems_of(argv: list[str], environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        resolve(argv, environ or {})
    return caught.value.problems


def yaml_file(folder: Path, text: str) -> str:
    path = folder / "c.yaml"
    path.write_text(text)
    return str(path)


LADDER = ["command line", "YAML", "environment", "fallback", "default"]


@pytest.mark.parametrize(("stronger", "weaker"), list(itertools.combinations(LADDER, 2)))
def test_the_stronger_source_wins(stronger: str, weaker: str, tmp_path: Path) -> None:
    path = yaml_file(tmp_path, "port: 8002")
    argv, environ, fallbacks = ["demo"], {}, {}
    for source in (stronger, weaker):
        argv += {"command line": ["--port", "8001"], "YAML": ["--config", path]}.get(source, [])
        environ |= {"environment": {"SM_VLLM_PORT": "8003"}}.get(source, {})
        fallbacks |= {"fallback": {"port": (8004, "image default")}}.get(source, {})
    resolved = resolve(argv, environ, fallbacks=fallbacks)
    expected = {
        "command line": (8001, "--port"),
        "YAML": (8002, f"YAML {path}:port"),
        "environment": (8003, "environment SM_VLLM_PORT"),
        "fallback": (8004, "image default"),
    }
    assert (resolved.config.network.port, str(resolved.source(PORT))) == expected[stronger]


def test_the_default_says_so() -> None:
    resolved = resolve(["demo"], {})
    assert (resolved.config.network.port, str(resolved.source(PORT))) == (8000, "default")


def test_short_environment_names_win_over_long_and_foreign_ones() -> None:
    environ = {"HF_TOKEN": "hf_c", "SM_VLLM_HF_TOKEN": "hf_b", "SM_HF_TOKEN": "hf_a"}
    resolved = resolve(["demo"], environ)
    assert resolved.config.model.hf_token == "hf_a"
    assert resolved.warnings == (
        "environment SM_VLLM_HF_TOKEN is not used: SM_HF_TOKEN says otherwise and wins",
        "environment HF_TOKEN is not used: SM_HF_TOKEN says otherwise and wins",
    )
    assert resolve(["demo"], {"HF_TOKEN": "hf_c", "SM_VLLM_HF_TOKEN": "hf_b"}).config.model.hf_token == "hf_b"


def test_positional_model_wins() -> None:
    resolved = resolve(["a", "--model", "b"], {"SM_VLLM_MODEL": "c"})
    assert resolved.config.model.model == "a"
    assert str(resolved.source(all_names().setting("model"))) == "MODEL argument"
    assert resolved.warnings == ("--model b is not used: the MODEL argument a wins",)


@pytest.mark.parametrize(
    ("argv", "read"),
    [
        (["--max_num_seqs", "3"], lambda r: r.config.scheduler.max_num_seqs == 3),
        (["--max-num-se=3"], lambda r: r.config.scheduler.max_num_seqs == 3),
        (["--max-num-seqs", "2", "--max-num-seqs", "3"], lambda r: r.config.scheduler.max_num_seqs == 3),
        (["-q", "int8"], lambda r: r.config.model.quantization == "int8"),
        (["-q", "gguf"], lambda r: r.config.model.quantization == "gguf"),
        (["-q=int8"], lambda r: r.config.model.quantization == "int8"),
        (["-qint8"], lambda r: r.config.model.quantization == "int8"),
        (["--device-memory-utilization", ".5"], lambda r: r.config.cache.gpu_memory_utilization == 0.5),
        (["--max-model-len", "-1"], lambda r: r.config.model.max_model_len == -1),
        (["--no-enable-prefix-caching"], lambda r: r.config.cache.enable_prefix_caching is False),
        (["--no-enable-prefix"], lambda r: r.config.cache.enable_prefix_caching is False),
        (["--disable-prefix-caching"], lambda r: r.config.cache.enable_prefix_caching is False),
        (["--enable-prefix-caching=false"], lambda r: r.config.cache.enable_prefix_caching is False),
        (["--enable-prefix-caching", "false"], lambda r: r.config.cache.enable_prefix_caching is False),
        (["--no-enable-prefix-caching", "--enable-prefix-caching"], lambda r: r.config.cache.enable_prefix_caching is True),
        (["--disable-log-stats"], lambda r: r.config.observability.disable_log_stats is True),
        (["--api-key", "k1", "k2"], lambda r: r.config.security.api_key == ["k1", "k2"]),
        (["--middleware", "a.b", "--middleware=c.d", "--middleware", '["e.f"]'],
         lambda r: r.config.extension.middleware == ["a.b", "c.d", "e.f"]),
        (["--allowed-origins", '["https://a.b"]'], lambda r: r.config.cors.allowed_origins == ["https://a.b"]),
        (["--allowed-origins", "https://a.b", "https://c.d"], lambda r: r.config.cors.allowed_origins == ["https://a.b", "https://c.d"]),
        (["--api-key", "k1,k2,k3"], lambda r: r.config.security.api_key == ["k1", "k2", "k3"]),
        (["--served-model-name", "a", "b", "--port", "8001"], lambda r: r.config.model.served_model_name == ["a", "b"]),
        (
            ["--override-generation-config", '{"top_k": 5, "x": {"a": 1}}', "--override_generation_config.x.b=4k",
             "--override-generation-config.seed_name", "none"],
            lambda r: r.config.model.override_generation_config == {"top_k": 5, "x": {"a": 1, "b": 4000}, "seed_name": "none"},
        ),
    ],
)  # fmt: skip
def test_command_line_spellings(argv: list[str], read: object) -> None:
    assert callable(read)
    assert read(resolve(["demo", *argv], {}))


@pytest.mark.parametrize("words", [["--middleware", "a.b"], ["--allowed-origins", '["https://a.b"]'], ["--served-model-name", '["a"]']])
def test_the_model_may_follow_what_is_one_word(words: list[str]) -> None:
    assert resolve([*words, "demo"], {}).config.model.model == "demo"


def test_options_may_end_with_a_double_dash() -> None:
    assert resolve(["--served-model-name", "a", "--", "demo"], {}).config.model.model == "demo"


def test_a_repeated_flag_is_warned_about() -> None:
    assert resolve(["demo", "--port", "8001", "--port", "8002"], {}).warnings == ("--port is given more than once; the last one counts",)


@pytest.mark.parametrize(
    ("name", "text", "read"),
    [
        ("SM_VLLM_ENABLE_PREFIX_CACHING", "false", lambda r: r.config.cache.enable_prefix_caching is False),
        ("SM_VLLM_DISABLE_LOG_STATS", "", lambda r: r.config.observability.disable_log_stats is True),
        ("SM_VLLM_NO_ENABLE_PREFIX_CACHING", "", lambda r: r.config.cache.enable_prefix_caching is False),
        ("SM_VLLM_PORT", ' "8081" ', lambda r: r.config.network.port == 8081),
        ("SM_VLLM_SERVED_MODEL_NAME", "'a b'", lambda r: r.config.model.served_model_name == ["a b"]),
        ("SM_VLLM_OVERRIDE_GENERATION_CONFIG", '"{\\"top_k\\": 1}"', lambda r: r.config.model.override_generation_config == {"top_k": 1}),
        ("SM_VLLM_MAX_MODEL_LEN", "", lambda r: r.config.model.max_model_len is None),
        ("SM_MAX_NUM_SEQS", "7", lambda r: r.config.scheduler.max_num_seqs == 7),
        ("VLLM_API_KEY", "k", lambda r: r.config.security.api_key == ["k"]),
        ("VLLM_LOGGING_LEVEL", "debug", lambda r: r.config.logs.log_level == "DEBUG"),
        ("SM_NUM_GPUS", "4", lambda r: r.sources.keys() == {"model"}),
        ("SAGEMAKER_PORT", "x", lambda r: r.sources.keys() == {"model"}),
    ],
)  # fmt: skip
def test_environment_spellings(name: str, text: str, read: object) -> None:
    assert callable(read)
    assert read(resolve(["demo"], {name: text}))


def test_config_file_named_by_the_environment(tmp_path: Path) -> None:
    path = yaml_file(tmp_path, "model: demo\nport: 8009")
    assert resolve([], {"SM_VLLM_CONFIG": path}).config.network.port == 8009
    other = tmp_path / "other.yaml"
    other.write_text("port: 8010")
    assert resolve(["demo", "--config", str(other)], {"SM_VLLM_CONFIG": path}).config.network.port == 8010


YAML = """
model: demo
served-model-name: [no, 010, 1e5]
revision: 0123
enable_prefix_caching: no
disable-log-stats: true
max-model-len: 4K
max-num-seqs: null
override-generation-config: {temperature: 0.5, stop: [on, 2026-01-01], top_k: 1, deep: {flag: true, none: null}, big: 1e3}
api-key:
  - k1
  - k2
"""


def test_yaml_is_read_by_option_type(tmp_path: Path) -> None:
    config = resolve(["--config", yaml_file(tmp_path, YAML)], {"SM_VLLM_MAX_NUM_SEQS": "9"}).config
    assert config.model.served_model_name == ["no", "010", "1e5"]
    assert config.model.revision == "0123"
    assert config.cache.enable_prefix_caching is False
    assert config.observability.disable_log_stats is True
    assert config.model.max_model_len == 4096
    assert config.scheduler.max_num_seqs is None  # null is the default, though the environment says 9
    assert config.security.api_key == ["k1", "k2"]
    assert config.model.override_generation_config == {
        "temperature": 0.5, "stop": ["on", "2026-01-01"], "top_k": 1, "deep": {"flag": True, "none": None}, "big": 1000.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("prot: 1", "YAML {path}:prot: unknown option; did you mean port?"),
        ("port: [1]", "YAML {path}:port: expected a whole number from 1024 to 65535, got 'a YAML list'"),
        ("port: true", "YAML {path}:port: expected a whole number from 1024 to 65535, got 'true'"),
        ("enable-prefix-caching: {a: 1}", "YAML {path}:enable-prefix-caching: expected true or false, got 'a YAML mapping'"),
        ("max-num-seqs: 1\nmax_num_seqs: 1", "YAML {path}:max_num_seqs: the file sets this option as 'max-num-seqs' too; keep one"),
        ("port: 8001\nport: 8001", "YAML {path}:port: the file sets this option twice; keep one"),
        ("gpu-memory-utilization: 0.5\ndevice-memory-utilization: 0.5",
         "YAML {path}:device-memory-utilization: the file sets this option as 'gpu-memory-utilization' too; keep one"),
        ("served-model-name: [[a]]", "YAML {path}:served-model-name: expected a list: several words, commas between, or a JSON array, "
         "got 'a list with something else than texts in it'"),
        ("- port", "--config {path}: must hold a mapping of option names to values, such as `port: 8080`"),
        ("port: [", "--config {path}: is not valid YAML: "),
        ("override-generation-config: {a: !!python/name:os.system x}", "--config {path}: has the tag !!python/name:os.system (line 1)"),
        ("swap-space: 4", "YAML {path}:swap-space: no longer exists; preempted requests are recomputed"),
        ("enable-dbo: true", "YAML {path}:enable-dbo: is an option of vLLM that is not supported by this version of Headway; "),
    ],
)  # fmt: skip
def test_yaml_problems(text: str, sentence: str, tmp_path: Path) -> None:
    path = yaml_file(tmp_path, text)
    (problem,) = problems_of(["demo", "--config", path])
    assert problem.startswith(sentence.format(path=path))
    assert "\n" not in problem


def test_missing_config_file(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    assert problems_of([f"--config={path}"]) == [f"--config: the file {path} can't be read: No such file or directory"]
    assert problems_of(["demo", "--config", "a.yaml", "--config=b.yaml"])[0] == (
        "--config: is given twice (a.yaml and b.yaml); name one file"
    )


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["--prot", "1"], "--prot: unknown option; did you mean --port?"),
        (["--zzzzzz"], "--zzzzzz: unknown option; `headway serve --help` lists them all"),
        (["--max-num", "1"], "--max-num: stands for several options: --max-num-batched-tokens, --max-num-seqs, --max-num-scheduled-tokens, "
         "--max-num-active-seqs, --max-num-queued-reqs, --max-num-queued-tokens"),
        (["--port"], "--port: needs a value"),
        (["--chat-template", "--port", "8001"],
         "--chat-template: needs a value (a value that begins with a dash is written --chat-template=VALUE)"),
        (["--port", "x"], "--port: expected a whole number from 1024 to 65535, got 'x'"),
        (["other"], "'other': unexpected argument: the model is already 'demo', and only one is served"),
        (["--task", "generate"], f"--task: no longer exists; {TASK}"),
        (["--logging-config.formatter", "json"], "--logging-config: is an option of vLLM that is not supported by this version of Headway; "
         "write --log-level, --log-format, --log-config and --no-configure-logging"),
        (["-O3"], "-O3: is an option of vLLM that is not supported by this version of Headway; nothing is compiled, and CUDA graphs have "
         "options of their own: leave it out, or write --cudagraph-capture-sizes or --enforce-eager"),
        (["--enable-dbo"], "--enable-dbo: is an option of vLLM that is not supported by this version of Headway; leave it out"),
        (["--data-parallel-backen", "ray"], "--data-parallel-backen: unknown option; vLLM's --data-parallel-backend, if that is meant, is "
         "not supported by this version of Headway; leave it out"),
        (["-port", "1"], "-port: unknown option; did you mean --port?"),
        (["--port.x", "1"], "--port.x: only JSON options take keys after a dot; write --port VALUE"),
        (["--max-num-seqs", "8", "--max-num-batched-tokens", "4"],
         "--max-num-batched-tokens (4) must be at least --max-num-seqs (8): a step gives each request a token"),
        (["--max-model-len", "0"], "--max-model-len must be at least 1, or -1 or auto for the longest that fits, got 0"),
        (["--served-model-name", "a", "a"], "--served-model-name must not repeat a name, got a more than once"),
        (["--root-path", "x"], "--root-path must begin with a slash, got 'x'"),
        (["--max-model-len", "99", "--max-num-batched-tokens", "9", "--no-enable-chunked-prefill"],
         "--max-num-batched-tokens (9) must be at least --max-model-len (99) with --no-enable-chunked-prefill: a prompt then has to fit "
         "in one step"),
        (["--max-model-len", "9", "--long-prefill-token-threshold", "10"],
         "--long-prefill-token-threshold (10) must not exceed --max-model-len (9)"),
        (["--kv-cache-memory-bytes", "1g", "--num-gpu-blocks-override", "9"],
         "--kv-cache-memory-bytes and --num-gpu-blocks-override both set the size of the KV cache: leave one of them out"),
    ],
)  # fmt: skip
def test_command_line_problems(argv: list[str], problem: str) -> None:
    assert problems_of(["demo", *argv]) == [problem]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("SM_VLLM_PROT", "1", "environment SM_VLLM_PROT: unknown option; did you mean SM_VLLM_PORT?"),
        ("SM_VLLM_PORT", "x", "environment SM_VLLM_PORT: expected a whole number from 1024 to 65535, got 'x'"),
        ("SM_PORT", "x", "environment SM_PORT: expected a whole number from 1024 to 65535, got 'x'"),
        ("SM_VLLM_PORT", "", "environment SM_VLLM_PORT: expected a whole number from 1024 to 65535, got ''"),
        ("SM_VLLM_TASK", "x", f"environment SM_VLLM_TASK: no longer exists; {TASK}"),
        ("SM_VLLM_NNODES", "2",
         "environment SM_VLLM_NNODES: is an option of vLLM that is not supported by this version of Headway; "
         "--distributed-executor-backend ray is what spreads a model over hosts: leave this out, or start a server "
         "on each, and put `headway router` before them"),
    ],
)  # fmt: skip
def test_environment_problems(name: str, text: str, problem: str) -> None:
    assert problems_of(["demo"], {name: text}) == [problem]


def test_variables_of_vllm_that_ask_for_what_is_done_anyway() -> None:
    met = {"SM_VLLM_NNODES": '"1"', "SM_VLLM_OPTIMIZATION_LEVEL": "0"}
    assert resolve(["demo"], met).sources.keys() == {"model"}
    problems = problems_of(["demo"], {"SM_VLLM_OPTIMIZATION_LEVEL": "2", "SM_VLLM_NNODES": "01"})
    assert len(problems) == 2
    assert all("is not supported by this version" in problem for problem in problems)


def test_all_problems_at_once_with_their_sources(tmp_path: Path) -> None:
    path = yaml_file(tmp_path, "max-num-seqs: 8\ncolour: red")
    assert problems_of(["--port", "x", "--config", path], {"SM_VLLM_MAX_NUM_BATCHED_TOKENS": "4", "SM_VLLM_DEVICE": "tpu"}) == [
        "--port: expected a whole number from 1024 to 65535, got 'x'",
        f"YAML {path}:colour: unknown option; `headway serve --help` lists them all",
        "environment SM_VLLM_DEVICE: expected one of auto, cpu, cuda, got 'tpu'",
        "--max-num-batched-tokens (4) must be at least --max-num-seqs (8): a step gives each request a token "
        f"(--max-num-batched-tokens is from environment SM_VLLM_MAX_NUM_BATCHED_TOKENS; --max-num-seqs is from YAML {path}:max-num-seqs)",
        "no model is given: name one on the command line (`headway serve MODEL`), as `model:` in the --config file, or in SM_VLLM_MODEL; "
        "`demo` is a small one to try",
    ]


def test_a_word_after_an_unknown_option_is_not_a_missing_model() -> None:
    assert problems_of(["--prot", "demo"]) == ["--prot: unknown option; did you mean --port?"]


def test_secrets_stay_out_of_reprs_and_errors() -> None:
    resolved: Resolved = resolve(["demo", "--api-key", "s3cret"], {"HF_TOKEN": "t0ken"})
    shown = repr(resolved) + repr(resolved.config.http) + str(resolved.config)
    assert "s3cret" not in shown
    assert "t0ken" not in shown
    problems = problems_of(["--api-key", '["s3cret"'], {"HF_TOKEN": "t0ken", "SM_HF_TOKEN": "***"})
    assert "s3cret" not in str(problems)
    assert "t0ken" not in str(problems)


def test_secrets_are_known_by_their_declaration() -> None:
    secret = [setting for setting in all_settings() if setting.option.secret]
    argv = [flag for setting in secret for flag in to_flags(setting, ["k1", "k2"] if setting.kind is Kind.LIST else setting.name)]
    config = resolve(["demo", "--port=8009", "--ssl-keyfile=k", "--ssl-certfile=c", *argv], {}).config
    assert sorted(secrets_of(config)) == sorted(["k1", "k2", "hf_token", "ssl_keyfile_password"])
    bare = without_secrets(config)
    assert secrets_of(bare) == []
    assert bare == resolve(["demo", "--port=8009", "--ssl-keyfile=k", "--ssl-certfile=c"], {}).config


@pytest.mark.parametrize("token", ["t0ken\nx", "t0k\u00e9n", "t0ken x", "t0ken\x7f"])
def test_tokens_that_no_header_holds(token: str) -> None:
    """Refused before an HTTP library refuses them and quotes them."""
    sentence = "--hf-token holds a blank, a line break or a character outside ASCII, which no token does (it is not shown)"
    assert problems_of(["demo"], {"HF_TOKEN": token}) == [f"{sentence} (--hf-token is from environment HF_TOKEN)"]


def test_keys_that_no_client_can_send() -> None:
    (problem,) = problems_of(["demo", "--api-key", "a key", "s3c\nret"])
    assert problem.startswith("--api-key holds a line break")
    assert "s3c" not in problem


@pytest.mark.parametrize(
    ("argv", "environ", "yaml", "where"),
    [
        (["--api-key="], {}, "", "--api-key"),
        (["--api-key", ""], {}, "", "--api-key"),
        (["--api-key", ",", " "], {}, "", "--api-key"),
        (["--api-key=[]"], {}, "", "--api-key"),
        ([], {"SM_VLLM_API_KEY": ""}, "", "environment SM_VLLM_API_KEY"),
        ([], {"SM_API_KEY": '""'}, "", "environment SM_API_KEY"),
        ([], {"VLLM_API_KEY": " "}, "", "environment VLLM_API_KEY"),
        ([], {}, "api-key:", "api-key"),
        ([], {}, "api-key: null", "api-key"),
        ([], {}, "api-key: []", "api-key"),
        ([], {}, "api-key: ['']", "api-key"),
        ([], {}, "api-key: ''", "api-key"),
    ],
)
def test_an_api_key_that_comes_out_empty_is_refused(
    argv: list[str], environ: dict[str, str], yaml: str, where: str, tmp_path: Path
) -> None:
    words = [*argv, "--config", yaml_file(tmp_path, yaml)] if yaml else argv
    (problem,) = problems_of(["demo", *words], environ)
    assert where in problem
    assert problem.endswith("is given but holds no key; leave it out to serve without one")


def test_blank_words_beside_a_key_are_dropped() -> None:
    assert resolve(["demo", "--api-key", "", "k"], {}).config.security.api_key == ["k"]


@pytest.mark.parametrize("argv", [["demo", "--api-key=sk-A", "sk-SECRET22"], ["--api-key=sk-A", "sk-SECRET22", "sk-SECRET22"]])
def test_a_word_behind_an_inline_key_is_not_shown_nor_taken_for_the_model(argv: list[str]) -> None:
    (problem,) = problems_of(argv)
    assert "SECRET22" not in problem
    assert "--api-key=k1,k2" in problem
    assert resolve(["--api-key=sk-A", "--", "demo"], {}).config.model.model == "demo"
    assert resolve(["--hf-token=hf-A", "demo"], {}).config.model.model == "demo"


def test_custom_code_without_the_switch_is_told_to_be_unused() -> None:
    environ = {"CUSTOM_FASTAPI_PING_HANDLER": "model:ping", "CUSTOM_SCRIPT_FILENAME": "mine.py", "CUSTOM_PRE_PROCESS": ""}
    warnings = resolve(["demo"], environ).warnings
    assert len(warnings) == 2
    for name, variable in (("custom-script", "CUSTOM_SCRIPT_FILENAME"), ("custom-ping-handler", "CUSTOM_FASTAPI_PING_HANDLER")):
        (warning,) = [warning for warning in warnings if warning.startswith(f"--{name} is not used")]
        assert "--enable-custom-handlers" in warning
        assert f"environment {variable}" in warning
    assert resolve(["demo", "--enable-custom-handlers"], environ).warnings == ()
    assert resolve(["demo"], {"SAGEMAKER_MODEL_PATH": "/opt/ml/model"}).warnings == ()


def test_the_variables_of_the_hosting_toolkit_are_options() -> None:
    environ = {
        "SAGEMAKER_ENABLE_STATEFUL_SESSIONS": "True",
        "SAGEMAKER_SESSIONS_EXPIRATION": "60",
        "SAGEMAKER_MODEL_PATH": "/models/one",
        "CUSTOM_SCRIPT_FILENAME": "mine.py",
        "CUSTOM_FASTAPI_PING_HANDLER": "model:a",
        "CUSTOM_FASTAPI_INVOCATION_HANDLER": "/v1/completions",
        "CUSTOM_FASTAPI_MIDDLEWARE_THROTTLE": "model:b",
        "CUSTOM_FASTAPI_MIDDLEWARE_PRE_POST_PROCESS": "model:c",
        "CUSTOM_PRE_PROCESS": "model:d",
        "CUSTOM_POST_PROCESS": "model:e",
    }
    config = resolve(["demo", "--enable-custom-handlers"], environ).config.sagemaker
    assert config.enable_stateful_sessions
    assert (config.sessions_expiration, config.custom_script_directory, config.custom_script) == (60, "/models/one", "mine.py")
    assert (config.custom_ping_handler, config.custom_invocation_handler) == ("model:a", "/v1/completions")
    assert (config.custom_throttle_middleware, config.custom_pre_post_process_middleware) == ("model:b", "model:c")
    assert (config.custom_pre_process, config.custom_post_process) == ("model:d", "model:e")


@pytest.mark.parametrize(("text", "is_warned"), [("k1 k2", True), ("k1,k2", False)])
def test_a_key_with_a_blank_may_have_been_meant_as_several(text: str, is_warned: bool) -> None:
    told = [line for line in resolve(["demo"], {"VLLM_API_KEY": text}).warnings if line.startswith("a key of --api-key holds a blank")]
    assert bool(told) == is_warned
    assert "k1" not in str(told)
