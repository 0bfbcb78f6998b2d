"""Environment in, the server's command line out; then the real process, up to the exec."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from entrypoint_process import NOWHERE, run_entrypoint
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.entrypoint.argv import server_arguments
from headway.entrypoint.environment import read_options
from headway.entrypoint.handover import environment_for_server
from headway.entrypoint.model_source import find_model
from headway.entrypoint.sagemaker import listener_problems, listener_warnings
from headway.entrypoint.secrets import key_warnings
from headway.server.cli import main
from headway.server.config.sources import resolve
from headway.server.errors import ConfigError

BODY_LIMIT = "--max-request-body-bytes=26214400"


def arguments(words: list[str], environ: dict[str, str]) -> list[str]:
    return server_arguments(read_options(words, environ, NOWHERE))


@pytest.mark.parametrize("words", [[], ["serve"]])
def test_environment_becomes_typed_flags(words: list[str]) -> None:
    environ = {
        "SM_VLLM_MODEL": "demo",
        "SM_VLLM_ENABLE_PREFIX_CACHING": "false",
        "SM_VLLM_DISABLE_LOG_STATS": "",
        "SM_MAX_NUM_SEQS": '"8"',
        "SM_VLLM_SERVED_MODEL_NAME": '["a", "b"]',
        "SM_VLLM_API_KEY": "s3cret",
        "SM_NUM_GPUS": "4",
    }
    assert arguments(words, environ) == [
        "serve",
        "--model=demo",
        "--served-model-name=a,b",
        "--no-enable-prefix-caching",
        "--max-num-seqs=8",
        "--host=0.0.0.0",
        "--port=8080",
        BODY_LIMIT,
        "--disable-log-stats",
    ]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train"], "train: this image serves models and trains none"),
        (
            ["bash", "-c", "ls"],
            "bash: the words after the image's name are `serve`, a model and options; .* `docker run --entrypoint bash`",
        ),
        (["health"], "health: .* `docker run --entrypoint headway`"),
        (["render", "compose"], "render: .* `docker run --entrypoint headway`"),
        (["local", "--image", "x"], r"local: `headway local` runs beside the image, not in it: pip install 'headway\[toolkit\]'"),
    ],
)
def test_other_commands_are_no_models(words: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        arguments(words, {"SM_VLLM_MODEL": "demo"})
    assert "--model=health" in arguments(["serve", "health"], {})


def test_no_command_of_headway_is_taken_for_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    commands = re.findall(r"^  ([a-z][a-z-]+) ", capsys.readouterr().out, re.MULTILINE)
    assert {"serve", "check", "run-batch", "local"} <= set(commands)
    for command in sorted(set(commands) - {"serve", "check"}):  # those two are what the image does
        with pytest.raises(ConfigError, match=f"^{command}: "):
            read_options([command], {}, NOWHERE)


def test_flags_win_over_the_environment_and_both_over_the_image() -> None:
    environ = {"SM_VLLM_MODEL": "demo", "SM_VLLM_PORT": "8081", "SM_VLLM_HOST": "::1"}
    assert arguments(["serve", "--port", "8082"], environ) == ["serve", "--model=demo", "--host=::1", "--port=8082", BODY_LIMIT]
    assert arguments(["other"], environ)[1] == "--model=other"


def test_the_config_file_becomes_flags_between_those_of_the_command_line_and_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("model: demo\nport: 8083\nmax-num-seqs: 5\nserved-model-name: null\n")
    environ = {"SM_VLLM_CONFIG": str(path), "SM_VLLM_PORT": "8084", "SM_VLLM_SEED": "3", "SM_SERVED_MODEL_NAME": "x"}
    resolved = read_options(["serve", "--max-num-seqs", "6"], environ, NOWHERE)
    made, child = server_arguments(resolved), environment_for_server(resolved, environ)
    assert made == [
        "serve", "--model=demo", "--served-model-name=[]", "--seed=3", "--max-num-seqs=6", "--host=0.0.0.0", "--port=8083", BODY_LIMIT,
    ]  # fmt: skip
    assert child == {}
    assert resolve(made[1:], child).config == resolved.config


@given(
    environ=st.fixed_dictionaries(
        {"SM_VLLM_MODEL": st.sampled_from(["demo", "a b", "-x"])},
        optional={
            "SM_VLLM_PORT": st.integers(1024, 65535).map(str),
            "SM_VLLM_MAX_MODEL_LEN": st.sampled_from(["auto", "-1", "4k", "4K", ""]),
            "SM_VLLM_CHAT_TEMPLATE": st.sampled_from(["{{ x }}\n{% if a %}\n", "--port", '"q"', "'"]),
            "SM_VLLM_SERVED_MODEL_NAME": st.sampled_from(["a,b", '["a,b", "-c", ""]'.replace(', ""', ""), "-z"]),
            "SM_VLLM_OVERRIDE_GENERATION_CONFIG": st.sampled_from(["{}", '{"top_k": 3, "s": "--x \\n"}']),
            "SM_ENABLE_CHUNKED_PREFILL": st.sampled_from(["0", "yes", ""]),
            "VLLM_API_KEY": st.just("k1,k2"),
            "HF_TOKEN": st.sampled_from(["hf", '"hf"', "\"'hf'\"", '"\\"hf\\""']),
        },
    ),
    words=st.lists(st.sampled_from(["--port=7007", "--no-enable-prefix-caching", "--seed=9", "--api-key=cli"]), unique=True, max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_the_server_understands_the_same(environ: dict[str, str], words: list[str]) -> None:
    resolved = read_options(["serve", *words], environ, NOWHERE)
    made, child = server_arguments(resolved), environment_for_server(resolved, environ)
    assert resolve(made[1:], child).config == resolved.config
    assert not {"k1", "k2", "cli"} & {piece for word in made for piece in word.replace("=", ",").split(",")}


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["config.json", "model.safetensors"], ""),
        (["model.tar.gz", "code/inference.py"], "model.tar.gz"),
        (["config.json", "model.safetensors", "backup.tar.gz"], ""),
        (["config.json", "model-00001-of-00002.safetensors", "code/inference.py"], ""),
        (["m.gguf"], "m.gguf"),
        (["inner/config.json", "inner/model.safetensors"], "inner"),
        (["inner/m.gguf", "code/x.py"], "inner/m.gguf"),
        (["code/inference.py", "code/requirements.txt"], None),
        (["config.json"], None),
        ([], None),
    ],
)
def test_a_directory_counts_if_it_holds_a_model(names: list[str], found: str | None, tmp_path: Path) -> None:
    search = find_model({}, make(tmp_path, *names))
    assert search.model == (None if found is None else str(tmp_path / found))


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["a.gguf", "b.gguf"], "{} holds 2 GGUF files (a.gguf, b.gguf); name the one to serve"),
        (["a/m.gguf", "b/m.gguf"], "{} holds 2 models (a, b); name one of them"),
        (["a.tar.gz", "b.tar"], "{} holds 2 archives (a.tar.gz, b.tar); name the one to serve"),
    ],
)
def test_another_model_is_not_served_in_place_of_several(names: list[str], told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_options([], {"HF_MODEL_ID": "org/model"}, make(tmp_path, *names))
    what = told.format(tmp_path)
    assert caught.value.problems == [f"no model is found: SM_VLLM_MODEL is not set; {what}; or name another model with SM_VLLM_MODEL"]
    assert read_options(["demo"], {}, tmp_path).config.model.model == "demo"


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["code/inference.py", "model.py"], "holds code/, model.py but no model (needs config.json and *.safetensors, or one .gguf file)"),
        ([], "is empty (needs config.json and *.safetensors, or one .gguf file)"),
        (["config.json", "pytorch_model.bin"], "has its weights only as pytorch_model.bin: pickle files can run any code"),
    ],
)
def test_what_was_looked_for_in_vain_is_told(names: list[str], told: str, tmp_path: Path) -> None:
    make(tmp_path, *names)
    with pytest.raises(ConfigError) as caught:
        read_options([], {}, tmp_path)
    [problem] = caught.value.problems
    assert problem.startswith(f"no model is found: SM_VLLM_MODEL is not set; {tmp_path} {told}")
    assert problem.endswith("; HF_MODEL_ID is not set; set one of the two (`demo` is a small model to try)")
    # What was passed over stands in the banner.
    source = find_model({"HF_MODEL_ID": "org/model"}, tmp_path).source
    assert source.startswith(f"environment HF_MODEL_ID; {tmp_path} {told}" if names else "environment HF_MODEL_ID")


def test_model_ladder(tmp_path: Path) -> None:
    hub = {"HF_MODEL_ID": ' "org/model" '}
    assert find_model({}, NOWHERE).model is None
    assert find_model({}, tmp_path / ("x" * 300)).model is None
    search = find_model(hub, tmp_path)
    assert (search.model, search.source) == ("org/model", "environment HF_MODEL_ID")
    make(tmp_path, "m.gguf")
    search = find_model(hub, tmp_path)
    assert (search.model, search.source) == (str(tmp_path / "m.gguf"), f"directory {tmp_path}")
    assert read_options([], {"SM_VLLM_MODEL": "demo"} | hub, tmp_path).config.model.model == "demo"
    assert read_options([], {"SM_VLLM_MODEL": ""} | hub, NOWHERE).config.model.model == "org/model"
    with pytest.raises(ConfigError, match=f"no model is found: .*; {NOWHERE} does not exist; HF_MODEL_ID is not set; "):
        read_options([], {}, NOWHERE)


def test_the_real_entrypoint_shows_the_options_with_their_true_sources() -> None:
    done = run_entrypoint("serve", "--show-config", "--api-key", "s3cret", environ={"SM_VLLM_MODEL": "demo", "SM_VLLM_MAX_NUM_SEQS": "8"})
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert 'model: "demo" # environment SM_VLLM_MODEL' in lines
    assert "max-num-seqs: 8 # environment SM_VLLM_MAX_NUM_SEQS" in lines
    assert "port: 8080 # image default" in lines
    assert '# api-key: ["***"] # --api-key' in lines
    assert "s3cret" not in done.stdout + done.stderr
    assert done.stderr.startswith("headway ")


def test_names_out_of_a_model_directory_make_no_lines_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a\nheadway: error: forged\n\x1b[2J").touch()
    done = run_entrypoint("serve", "--show-config", environ={"SAGEMAKER_MODEL_PATH": str(tmp_path), "HF_MODEL_ID": "org/model"})
    assert done.returncode == 0, done.stderr
    told = [line for line in (done.stdout + done.stderr).splitlines() if "forged" in line]
    assert [line.split()[0] for line in told] == ["model:", "model"]
    assert "\x1b" not in done.stdout + done.stderr


def test_the_real_entrypoint_refuses_bad_options() -> None:
    done = run_entrypoint("serve", environ={"SM_VLLM_PROT": "1", "SM_VLLM_MODEL": "demo"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "headway: error: environment SM_VLLM_PROT: unknown option; did you mean SM_VLLM_PORT?\n"


def test_a_secret_flag_wins_over_the_config_file_and_a_null_there_over_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("api-key: k\nhf-token: null\n")
    environ = {"SM_VLLM_MODEL": "demo", "HF_TOKEN": "t", "SM_VLLM_API_KEY": "e"}
    resolved = read_options(["--config", str(path), "--api-key", "other"], environ, NOWHERE)
    assert environment_for_server(resolved, environ) == {"VLLM_API_KEY": "other"}
    assert environment_for_server(read_options([f"--config={path}"], environ, NOWHERE), environ) == {"VLLM_API_KEY": "k"}


def test_options_that_no_command_line_can_hold_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text('revision: "\\ud800"\n')
    done = run_entrypoint("demo", "--config", str(path), environ={})
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("headway: error: the server can't be started with these options: ")


@pytest.mark.parametrize(
    ("key", "environ", "has_directory", "sign"),
    [
        ("k", {"SAGEMAKER_REGION": "r"}, False, "SAGEMAKER_REGION"),
        ("k", {}, True, "ml"),
        ("k", {}, False, None),
        (None, {"SAGEMAKER_REGION": "r"}, True, None),
    ],
)
def test_a_key_that_sagemaker_would_not_pass_on(
    key: str | None, environ: dict[str, str], has_directory: bool, sign: str | None, tmp_path: Path
) -> None:
    directory = tmp_path / "ml"
    if has_directory:
        directory.mkdir()
    keys = {"VLLM_API_KEY": key} if key else {}
    resolved = read_options([], {"SM_VLLM_MODEL": "demo"} | keys | environ, NOWHERE)
    warnings = key_warnings(resolved, environ, directory)
    assert len(warnings) == (sign is not None)
    assert all(str(sign) in warning and "401" in warning for warning in warnings)


def test_a_key_file_that_sagemaker_would_make_useless(tmp_path: Path) -> None:
    resolved = read_options(["--api-key-file", "/run/secrets/key"], {"SM_VLLM_MODEL": "demo"}, NOWHERE)
    (warning,) = key_warnings(resolved, {"SAGEMAKER_REGION": "r"}, tmp_path / "none")
    assert warning.startswith("--api-key-file is set; if this is SageMaker (SAGEMAKER_REGION looks like it), leave the key out")


def test_the_real_entrypoint_warns_of_it() -> None:
    done = run_entrypoint("serve", "--show-config", environ={"SM_VLLM_MODEL": "demo", "SM_VLLM_API_KEY": "s3cret", "SAGEMAKER_REGION": "r"})
    assert done.returncode == 0
    assert "\nheadway: warning: --api-key is set; if this is SageMaker (SAGEMAKER_REGION looks like it), leave the key out: " in done.stderr


def test_help_needs_no_model() -> None:
    done = run_entrypoint("--help", environ={})
    assert done.returncode == 0
    assert "--max-num-seqs" in done.stdout


LISTENERS = [(["--ssl-keyfile=k", "--ssl-certfile=c"], "--ssl-certfile"), (["--uds=/s"], "--uds"), ([], None)]


@pytest.mark.parametrize(("words", "flag"), LISTENERS)
def test_a_listener_that_sagemaker_cannot_reach(words: list[str], flag: str | None, tmp_path: Path) -> None:
    config = read_options(["demo", *words], {}, NOWHERE).config
    on_platform = {"SAGEMAKER_REGION": "r"}
    told = [
        problem.partition(" cannot be used on SageMaker, and SAGEMAKER_REGION says")[0]
        for problem in listener_problems(config, on_platform)
    ]
    warned = [warning.partition(" is set; if this is SageMaker")[0] for warning in listener_warnings(config, {}, tmp_path)]
    assert told == warned == ([flag] if flag else [])
    assert listener_problems(config, {}) == listener_warnings(config, {}, NOWHERE) == listener_warnings(config, on_platform, tmp_path) == []


def test_the_real_entrypoint_refuses_such_a_listener() -> None:
    done = run_entrypoint("demo", "--uds", "/s", environ={"SAGEMAKER_REGION": "r"})
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("headway: error: --uds cannot be used on SageMaker")
