"""When a server is ejected and admitted again."""

from __future__ import annotations

from headway.server.router.health import Health, State


def test_a_server_is_new_until_it_says_that_it_is_well() -> None:
    health = Health()
    assert (health.state, health.is_healthy) == (State.NEW, False)
    assert health.is_well()
    assert health.is_healthy
    assert not health.is_well(), "it was healthy before"


def test_one_refusal_ejects_and_one_good_answer_admits() -> None:
    health = Health()
    health.is_well()
    assert health.refused("it takes no connection")
    assert (health.state, health.cause) == (State.EJECTED, "it takes no connection")
    assert not health.refused("/ping answers 503"), "it is out already"
    assert health.cause == "/ping answers 503"
    assert health.is_well()
    assert health.cause == ""


def test_silence_ejects_only_when_it_goes_on() -> None:
    health = Health(eject_after=3)
    health.is_well()
    assert [health.was_late("late") for _ in range(2)] == [False, False]
    assert health.is_healthy
    health.is_well()
    assert [health.was_late("late") for _ in range(3)] == [False, False, True], "the count began anew"
    assert not health.is_healthy


def test_a_server_that_breaks_off_in_all_its_work_is_ejected_though_it_says_that_it_is_well() -> None:
    health = Health(eject_after=2)
    health.is_well()
    assert not health.broke("it broke off")
    health.is_well()
    assert health.broke("it broke off")
    assert health.is_well()
    assert not health.broke("it broke off"), "admitted, it has its chances again"


def test_a_whole_answer_forgives_broken_ones() -> None:
    health = Health(eject_after=2)
    health.is_well()
    health.broke("it broke off")
    health.answered()
    assert not health.broke("it broke off")


def test_a_late_answer_does_not_admit_an_ejected_server() -> None:
    health = Health()
    health.is_well()
    health.refused("it takes no connection")
    health.answered()
    assert not health.is_healthy


def test_rest_ends_by_itself_and_is_no_ejection() -> None:
    health = Health()
    health.is_well()
    health.rest(until=10.0)
    assert health.is_healthy
    assert health.is_resting(9.9)
    assert not health.is_resting(10.0)
