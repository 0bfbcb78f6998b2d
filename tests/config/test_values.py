from __future__ import annotations

from typing import Any

import pytest

from headway.server.config.sources import all_names, all_settings
from headway.server.config.values import BadValue, expected, parse_human_int, parse_text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4096", 4096), ("4k", 4000), ("4K", 4096), ("25.6k", 25600), ("1m", 1_000_000), ("1M", 2**20), ("2g", 2 * 10**9),
        ("2G", 2 * 2**30), ("1t", 10**12), ("1T", 2**40), ("-1", -1), ("0.5g", 500_000_000),
        ("1.00001k", None), ("k", None), ("4 k", None), ("4kb", None), ("1.5", None), ("٤", None), ("1_000", None), ("", None),
    ],
)  # fmt: skip
def test_human_readable_whole_numbers(text: str, value: int | None) -> None:
    assert parse_human_int(text) == value


def test_a_fraction_of_1024_suggests_the_decimal_letter() -> None:
    with pytest.raises(BadValue, match=r"'2\.5K' counts in powers of 1024 and must be whole; '2\.5k' is the decimal form"):
        parse_human_int("2.5K")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("enable_prefix_caching", "Yes", True), ("enable_prefix_caching", " OFF ", False), ("enable_prefix_caching", "1", True),
        ("enable_prefix_caching", "disabled", False), ("port", " 8080 ", 8080), ("max_model_len", "AUTO", "auto"),
        ("max_model_len", "-1", -1), ("max_model_len", "None", None), ("max_model_len", "", None), ("max_model_len", "8k", 8000),
        ("gpu_memory_utilization", ".5", 0.5), ("log_level", "debug", "DEBUG"), ("quantization", "none", "none"),
        ("quantization", "None", None), ("served_model_name", "a, b,", ["a", "b"]), ("served_model_name", '["a,b", "", "c"]', ["a,b", "c"]),
        ("override_generation_config", '{"top_k": 1}', {"top_k": 1}), ("override_generation_config", " ", {}),
        ("chat_template", " {{ x }}\n", " {{ x }}\n"), ("root_path", "", ""),
    ],
)  # fmt: skip
def test_texts_are_read_by_type(name: str, text: str, value: Any) -> None:
    assert parse_text(all_names().setting(name), text) == value


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("port", "x", "expected a whole number from 1024 to 65535, got 'x'"),
        ("port", "80", "expected a whole number from 1024 to 65535, got '80'"),
        ("port", "70000", "expected a whole number from 1024 to 65535, got '70000'"),
        ("port", "8.0", "expected a whole number from 1024 to 65535, got '8.0'"),
        ("port", "", "expected a whole number from 1024 to 65535, got ''"),
        ("gpu_memory_utilization", "1.5", "expected a number above 0 and of at most 1, got '1.5'"),
        ("gpu_memory_utilization", "nan", "expected a number above 0 and of at most 1, got 'nan'"),
        ("max_model_len", "long", "expected a whole number (4k and 4K too), or auto, got 'long'"),
        ("enable_prefix_caching", "maybe", "expected true or false, got 'maybe'"),
        ("device", "tpu", "expected one of auto, cpu, cuda, got 'tpu'"),
        ("served_model_name", "[1", "expected a list: several words, commas between, or a JSON array, got '[1'"),
        ("override_generation_config", "[]", "expected a JSON object, got '[]'"),
        ("api_key", '["s3cret"', "got something else (not shown, it is a secret)"),
        ("api_key", "***", "*** is what a secret is shown as, not a secret"),
    ],
)  # fmt: skip
def test_bad_texts_say_what_is_allowed(name: str, text: str, sentence: str) -> None:
    with pytest.raises(BadValue) as caught:
        parse_text(all_names().setting(name), text)
    assert sentence in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_every_option_is_documented_and_has_words_for_what_it_takes() -> None:
    for setting in all_settings():
        assert setting.help.rstrip()[-1] in ".)", setting.name
        assert expected(setting)
        assert setting.flag == "--" + setting.name.replace("_", "-")
        assert setting.environment_names[0] == "SM_" + setting.name.upper()
        assert "SM_VLLM_" + setting.name.upper() in setting.environment_names
