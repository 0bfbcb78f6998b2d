"""Options about metrics: what is taken, and what is said of the rest."""

from __future__ import annotations

import pytest

from headway.server.config.buckets import bounds_of
from headway.server.config.sources import resolve
from headway.server.errors import ConfigError


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ('--custom-histogram-buckets={"latency": [1]}', "--custom-histogram-buckets: there is no family 'latency'; the families are"),
        ('--custom-histogram-buckets={"request_latency": []}', "must be a list of numbers above 0, such as [0.5, 1, 5], got []"),
        ('--custom-histogram-buckets={"request_latency": 1}', "must be a list of numbers above 0, such as [0.5, 1, 5], got 1"),
        ('--custom-histogram-buckets={"request_latency": [0, 1]}', "must be a list of numbers above 0"),
        ('--custom-histogram-buckets={"request_latency": [1, true]}', "must be a list of numbers above 0"),
        ('--custom-histogram-buckets={"request_latency": [1, "2"]}', "must be a list of numbers above 0"),
        ('--custom-histogram-buckets={"request_latency": [1, Infinity]}', "must be a list of numbers above 0"),
        ('--custom-histogram-buckets={"request_latency": [NaN]}', "must be a list of numbers above 0"),
        (f'--custom-histogram-buckets={{"request_latency": [1{"0" * 400}]}}', "must be a list of numbers above 0"),
        ('--custom-histogram-buckets={"request_latency": [1, 1]}', "request_latency must rise from each bound to the next, got [1, 1]"),
        ('--custom-histogram-buckets={"request_tokens": [2, 1]}', "request_tokens must rise"),
        ('--custom-histogram-buckets={"kv_cache_residency": [1]}', "the histograms of kv_cache_residency are not exported by this version"),
        ("--metrics-prefix=", "--metrics-prefix must hold letters, digits, _ and : only and not begin with a digit"),
        ("--metrics-prefix=1x:", "got '1x:'"),
        ("--metrics-prefix=a-b", "got 'a-b'"),
        ("--metrics-prefix=ä:", "got 'ä:'"),
    ],
)
def test_what_can_not_be_served_is_refused(flag: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(["demo", flag], {})
    assert sentence in str(caught.value)


def test_a_single_family_can_be_given_by_its_name() -> None:
    config = resolve(["demo", "--custom-histogram-buckets.request_latency", "[0.5, 1]"], {}).config
    assert bounds_of("request_latency", config.observability.custom_histogram_buckets) == (0.5, 1)


@pytest.mark.parametrize(
    ("max_model_len", "bounds"),
    [(1, (1,)), (4, (1, 2)), (5, (1, 2, 5)), (99, (1, 2, 5, 10, 20, 50)), (100, (1, 2, 5, 10, 20, 50, 100)), (2048, None)],
)
def test_counts_of_tokens_go_up_to_the_context(max_model_len: int, bounds: tuple[int, ...] | None) -> None:
    expected = bounds or (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
    assert bounds_of("request_tokens", {}, max_model_len) == expected


@pytest.mark.parametrize(("text", "seconds"), [("2.5", 2.5), ("0", 10), ("-1", 10)])
def test_the_interval_of_the_statistics_line(text: str, seconds: float) -> None:
    config = resolve(["demo"], {"VLLM_LOG_STATS_INTERVAL": text}).config
    assert config.observability.stats_interval_s == seconds
