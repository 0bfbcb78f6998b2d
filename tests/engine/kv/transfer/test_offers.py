from __future__ import annotations

from headway.server.engine.kv.transfer.nixl.offers import Offers
from headway.server.engine.kv.transfer.orders import Offer

OFFER = Offer("token", b"digest", [3, 4])


def offers() -> Offers:
    made = Offers()
    made.add(OFFER)
    return made


def test_one_reader_gets_it_once() -> None:
    made = offers()
    assert made.claim("token", b"digest") == OFFER
    assert made.claim("token", b"digest") == "another request has it already"
    assert made.release("token")
    assert not made.release("token")
    assert made.claim("token", b"digest") == "the prefill server does not keep it any more"


def test_the_prompt_must_be_the_same() -> None:
    made = offers()
    assert made.claim("token", b"other") == "the prefill was of another prompt or cache_salt"
    assert made.claim("token", b"digest") == OFFER


def test_a_guess_gets_nothing() -> None:
    made = offers()
    assert made.claim("guess", b"digest") == "the prefill server does not keep it any more"


def test_what_was_withdrawn_did_not_hold() -> None:
    made = offers()
    made.claim("token", b"digest")
    made.withdraw("token")
    assert not made.release("token")
    assert len(made) == 0
