"""What `--faults` understands, and that a seed gives the same run again."""

from __future__ import annotations

import pytest

from headway.container.local.faults import FAULTS, Faults, read_faults
from headway.server.errors import ConfigError


def test_without_faults_nothing_happens() -> None:
    faults = Faults()
    happened = [faults.throttles(), faults.refusal(), faults.drops(), faults.splits(), faults.kills()]
    assert not any(happened)
    assert faults.delay_s() == faults.ping_delay_s() == 0.0


def test_a_probability_is_kept_and_a_seed_repeats_the_run() -> None:
    def draws(text: str) -> list[bool]:
        faults = read_faults(text)
        return [faults.throttles() for _ in range(2000)]

    assert draws("throttle=0.1,seed=7") == draws("throttle=0.1,seed=7") != draws("throttle=0.1,seed=8")
    assert 140 < sum(draws("throttle=0.1,seed=7")) < 260
    assert all(draws("throttle=1"))
    assert not any(draws("throttle=0"))


def test_a_kind_does_not_disturb_the_others() -> None:
    alone, among = read_faults("death=0.5,seed=3"), read_faults("death=0.5,throttle=0.5,delay=1s@0.5,seed=3")
    for _ in range(100):
        among.throttles(), among.delay_s()
        assert alone.kills() == among.kills()


def test_durations_with_and_without_a_probability() -> None:
    faults = read_faults(" slow-ping=3s , delay=200ms@0.5 ")
    assert {faults.ping_delay_s() for _ in range(50)} == {3.0}
    assert {faults.delay_s() for _ in range(50)} == {0.0, 0.2}
    assert "delay" in faults
    assert "death" not in faults


def test_both_platform_errors_come_up() -> None:
    faults = read_faults("5xx=1")
    assert {faults.refusal() for _ in range(50)} == {"InternalFailure", "ServiceUnavailable"}


def test_cut_parts_add_up() -> None:
    faults = read_faults("split=1")
    assert faults.splits()
    for part in (b"", b"a", b"ab", b"data: {}\n\n"):
        pieces = faults.cut(part)
        assert b"".join(pieces) == part
        assert len(pieces) == (2 if len(part) > 1 else 1)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("throtle=0.1", "'throtle' is no fault; did you mean throttle?"),
        ("rain=1", "'rain' is no fault; there are " + ", ".join(FAULTS)),
        ("throttle", "throttle takes how often it happens, from 0 to 1, as throttle=0.1; got ''"),
        ("throttle=1.5", "throttle takes how often it happens, from 0 to 1, as throttle=0.1; got '1.5'"),
        ("throttle=nan", "got 'nan'"),
        ("delay=3", "delay takes a duration of up to 3600s, as delay=3s or delay=200ms@0.5; got '3'"),
        ("delay=9000s", "got '9000s'"),
        ("delay=3s@2", "delay takes how often it happens, from 0 to 1, as delay=3s@0.1; got '2'"),
        ("seed=x", "seed takes a whole number, as seed=7; got 'x'"),
        ("drop=0.1,drop=0.2", "drop stands there twice"),
    ],
)
def test_what_is_not_understood_is_said(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_faults(text)
    assert sentence in str(caught.value)


def test_every_problem_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        read_faults("rain=1,throttle=2")
    assert len(caught.value.problems) == 2
