"""Values beyond one variable: files, addresses, parts; and the sentence of each thing that can be wrong. (AWS: test_remote.py)"""

from __future__ import annotations

from pathlib import Path

import pytest

from headway.server.config.places import MAX_BYTES
from headway.server.config.sources import Resolved, all_names, resolve
from headway.server.errors import ConfigError


def problems_of(environ: dict[str, str], *words: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        resolve(["demo", *words], environ)
    return caught.value.problems


def source(resolved: Resolved, name: str) -> str:
    return str(resolved.source(all_names().setting(name)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "a value"


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("CHAT_TEMPLATE", " {{ x }}\n\n", " {{ x }}\n"),
        ("CHAT_TEMPLATE", "{{ x }}\r\n", "{{ x }}"),
        ("CHAT_TEMPLATE", "file:///not/followed\n", "file:///not/followed"),
        ("REVISION", "\ufeffmain\n", "main"),
        ("MAX_MODEL_LEN", "4k\n", 4000),
        ("ENABLE_PREFIX_CACHING", "false\n", False),
        ("SERVED_MODEL_NAME", "a\nb\n\n", ["a", "b"]),
        ("SERVED_MODEL_NAME", '[\n"a,b",\n"c"\n]\n', ["a,b", "c"]),
        ("OVERRIDE_GENERATION_CONFIG", '{\n"top_k": 3}\n', {"top_k": 3}),
        ("MODEL", "org/model\n", "org/model"),
        ("HF_TOKEN", " hf \n", "hf"),
    ],
)
def test_the_content_of_a_file_is_the_value(option: str, text: str, value: object, file: Path) -> None:
    file.write_bytes(text.encode())
    for name in (f"SM_VLLM_{option}_FILE", f"SM_{option}_FILE"):
        resolved = resolve(["--show-config"], {name: str(file)})
        assert resolved.value(all_names().setting(option)) == value
        assert source(resolved, option) == f"environment {name}"


@pytest.mark.parametrize("name", ["HF_TOKEN_FILE", "HUGGING_FACE_HUB_TOKEN_FILE", "SM_HF_TOKEN", "SM_VLLM_HF_TOKEN", "HF_TOKEN"])
def test_every_name_of_an_option_takes_a_file(name: str, file: Path) -> None:
    file.write_text("k")
    text = str(file) if name.endswith("_FILE") else f"file://{file.parent}/a%20value"
    assert resolve(["demo"], {name: text}).config.model.hf_token == "k"


@pytest.mark.parametrize("name", ["SM_API_KEY", "SM_VLLM_API_KEY", "VLLM_API_KEY"])
def test_keys_at_an_address_of_a_file(name: str, file: Path) -> None:
    file.write_text(" k1 \nk2\n")
    assert resolve(["demo"], {name: f"file://{file.parent}/a%20value"}).config.security.api_key == ["k1", "k2"]


@pytest.mark.parametrize("name", ["SM_API_KEY_FILE", "SM_VLLM_API_KEY_FILE", "VLLM_API_KEY_FILE"])
def test_a_file_of_keys_stays_a_path_since_it_is_followed(name: str, file: Path) -> None:
    security = resolve(["demo", "--api-key", "k"], {name: str(file)}).config.security  # it need not be there
    assert (security.api_key, security.api_key_file) == (["k"], str(file))


def test_an_address_of_a_file_as_the_value(file: Path, tmp_path: Path) -> None:
    file.write_text("{{ x }}\n")
    (tmp_path / "c.yaml").write_text("port: 9009\napi-key: file:///no/such/key\n")
    environ = {"SM_CHAT_TEMPLATE": f'"file://{tmp_path}/a%20value"', "SM_CONFIG": f"file://{tmp_path}/c.yaml", "SM_MODEL": "file:///m"}
    config = resolve(["--api-key", f"file://{tmp_path}/a%20value"], environ).config
    assert config.chat.chat_template == "{{ x }}"
    assert config.security.api_key == ["{{ x }}"]
    assert config.network.port == 9009
    assert config.model.model == "file:///m"  # a location by itself


def test_a_loser_is_not_read(file: Path) -> None:
    resolved = resolve(["demo"], {"SM_REVISION": "main", "SM_VLLM_REVISION_FILE": "/no/such/file", "SM_VLLM_SEED_FILE": "/no/such/file"}
                       | {"SM_SEED": "1"})  # fmt: skip
    assert resolved.warnings == (
        "environment SM_VLLM_REVISION_FILE is not used: SM_REVISION wins",
        "environment SM_VLLM_SEED_FILE is not used: SM_SEED wins",
    )


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file or directory"),
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"\xff", "it is not UTF-8 text"),
        (b"x" * (MAX_BYTES + 1), "it is larger than 4 MiB"),
    ],
)
def test_a_file_that_holds_no_value(content: bytes | None, why: str, file: Path) -> None:
    if content is not None:
        file.write_bytes(content)
    assert problems_of({"SM_VLLM_HF_TOKEN_FILE": str(file)}) == [f"environment SM_VLLM_HF_TOKEN_FILE: the file {file} can't be read: {why}"]


def test_a_missing_file_for_the_model_is_the_only_problem() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve([], {"SM_MODEL_FILE": "/no/file"})
    assert caught.value.problems == ["environment SM_MODEL_FILE: the file /no/file can't be read: No such file or directory"]


def test_a_file_without_end_is_read_in_part_only() -> None:
    assert problems_of({"SM_REVISION_FILE": "/dev/zero"}) == [
        "environment SM_REVISION_FILE: the file /dev/zero can't be read: it is larger than 4 MiB"
    ]


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("PORT", "a whole number from 1024 to 65535"),
        ("DEVICE", "one of auto, cpu, cuda"),
        ("ENABLE_PREFIX_CACHING", "true or false"),
        ("KV_CACHE_MEMORY_BYTES", "a whole number (4k and 4K too) above 0"),
        ("OVERRIDE_GENERATION_CONFIG", "a JSON object"),
    ],
)
@pytest.mark.parametrize("text", ["s3cret", "1.5K", '["s3cret"'])
def test_what_stands_in_a_file_for_another_option_is_not_shown(option: str, expected: str, text: str, file: Path) -> None:
    file.write_text(text)
    sentence = f"the file {file} must hold {expected}; what it holds is not shown"
    assert problems_of({f"SM_{option}_FILE": str(file)}) == [f"environment SM_{option}_FILE: {sentence}"]


def test_json_that_nests_without_end_is_refused(file: Path) -> None:
    file.write_text('{"a":' * 100_000)
    (problem,) = problems_of({"SM_OVERRIDE_GENERATION_CONFIG_FILE": str(file)})
    assert problem.startswith(f"environment SM_OVERRIDE_GENERATION_CONFIG_FILE: the file {file} must hold a JSON object")


def test_parts_are_put_together_in_the_order_of_their_numbers() -> None:
    parts = {f"SM_VLLM_CHAT_TEMPLATE_{at}": text for at, text in enumerate(["{{ a", " }}\n", *"23456789", " tenth "])}
    resolved = resolve(["demo"], parts)
    assert resolved.config.chat.chat_template == "{{ a }}\n23456789 tenth"
    assert source(resolved, "chat_template") == "environment SM_VLLM_CHAT_TEMPLATE_0 to _10"
    assert resolve(["demo"], {"VLLM_API_KEY_0": "k1,", "VLLM_API_KEY_1": "k2"}).config.security.api_key == ["k1", "k2"]
    quoted = {"SM_OVERRIDE_GENERATION_CONFIG_0": '{"top_k"', "SM_OVERRIDE_GENERATION_CONFIG_1": ": 3}"}
    assert resolve(["demo"], quoted).config.model.override_generation_config == {"top_k": 3}


def test_a_wrong_value_in_parts() -> None:
    assert problems_of({"SM_VLLM_PORT_0": "1", "SM_VLLM_PORT_1": "x"}) == [
        "environment SM_VLLM_PORT_0 to _1: expected a whole number from 1024 to 65535, got '1x'"
    ]


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"SM_SEED_0": "1", "SM_SEED_2": "1"},
         "environment SM_SEED_2: the parts of a value are numbered from 0, and SM_SEED_1 is missing"),
        ({"SM_SEED_1": "1"}, "environment SM_SEED_1: the parts of a value are numbered from 0, and SM_SEED_0 is missing"),
        ({"SM_SEED_0": "1", "SM_SEED": "1"},
         "environment SM_SEED_0: SM_SEED is set too, and only one of them can count; leave the other out"),
        ({"SM_SEED_FILE": "/x", "SM_SEED": "1"},
         "environment SM_SEED_FILE: SM_SEED is set too, and only one of them can count; leave the other out"),
        ({"HF_TOKEN_SECRET_ARN": "arn:x", "HF_TOKEN": "t"},
         "environment HF_TOKEN_SECRET_ARN: HF_TOKEN is set too, and only one of them can count; leave the other out"),
        ({"SM_SEED_FILE": ""}, "environment SM_SEED_FILE: must name a file"),
        ({"SM_CHAT_TEMPLATE": "s3://bucket/"}, "environment SM_CHAT_TEMPLATE: s3://bucket/: must name one object, as s3://bucket/key"),
        ({"SM_CHAT_TEMPLATE": "file://x/y"},
         "environment SM_CHAT_TEMPLATE: file://x/y: an absolute path must follow file://, as in file:///run/secrets/key"),
        ({"HF_TOKEN": "ssm:"}, "environment HF_TOKEN: a name or an ARN of a parameter must follow ssm:, as in ssm:/prod/api-key"),
        ({"HF_TOKEN": "arn:aws:s3:::b"}, "environment HF_TOKEN: this ARN is none of a Secrets Manager secret "
         "(arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME[:JSON-KEY])"),
        ({"HF_TOKEN_SECRET_ARN": "name"}, "environment HF_TOKEN_SECRET_ARN: must be the ARN of a secret, "
         "arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME[:JSON-KEY]"),
        ({"SM_VLLM_CHAT_TEMPLAT_FILE": "x"},
         "environment SM_VLLM_CHAT_TEMPLAT_FILE: unknown option; did you mean SM_VLLM_CHAT_TEMPLATE_FILE?"),
        ({"SM_VLLM_PROT_0": "x"}, "environment SM_VLLM_PROT_0: unknown option; did you mean SM_VLLM_PORT_0?"),
        ({"SM_VLLM_PORT_SECRET_ARN": "x"},
         "environment SM_VLLM_PORT_SECRET_ARN: this option can't be given with _SECRET_ARN behind its name; "
         "write SM_VLLM_PORT"),
        ({"SM_VLLM_CONFIG_FILE": "x"},
         "environment SM_VLLM_CONFIG_FILE: this option can't be given with _FILE behind its name; write SM_VLLM_CONFIG"),
        ({"SM_VLLM_NO_ENABLE_PREFIX_CACHING_FILE": "x"}, "environment SM_VLLM_NO_ENABLE_PREFIX_CACHING_FILE: this option can't be given "
         "with _FILE behind its name; write SM_VLLM_NO_ENABLE_PREFIX_CACHING"),
    ],
)  # fmt: skip
def test_problems(environ: dict[str, str], problem: str) -> None:
    assert problems_of(environ) == [problem]


@pytest.mark.parametrize("name", ["SM_HOSTS_FILE", "SM_CHANNEL_0", "SAGEMAKER_PORT_FILE", "SM_PORT_01", "SM_PORT_SECRET_ARN"])
def test_foreign_names_with_our_endings_are_left_alone(name: str) -> None:
    assert resolve(["demo"], {name: "x"}).sources.keys() == {"model"}


def test_no_problem_shows_a_secret(file: Path) -> None:
    file.write_text('["s3cret"')
    arns = {"SM_VLLM_HF_TOKEN": "arn:s3cret", "HUGGING_FACE_HUB_TOKEN_SECRET_ARN": "s3cret"}
    assert "s3cret" not in str(problems_of({"SM_API_KEY": f"file://{file.parent}/a%20value"} | arns))
    file.write_text("ssm:s3cret")
    assert "s3cret" not in str(problems_of({"SM_API_KEY": f"file://{file.parent}/a%20value"}))
