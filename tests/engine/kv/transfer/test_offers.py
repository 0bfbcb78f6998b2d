from __future__ import annotations

from headway.server.engine.kv.transfer.nixl.offers import Offers, Part
from headway.server.engine.kv.transfer.orders import MoreOffered, Offer

OFFER = Offer("token", b"digest", [3, 4])


def offers() -> Offers:
    made = Offers()
    made.add(OFFER)
    return made


def test_one_reader_gets_it_once() -> None:
    made = offers()
    assert made.claim("token", b"digest") is None
    assert made.claim("token", b"digest") == "another request has it already"
    assert made.release("token")
    assert not made.release("token")
    assert made.claim("token", b"digest") == "the prefill server does not keep it any more"


def test_the_prompt_must_be_the_same() -> None:
    made = offers()
    assert made.claim("token", b"other") == "the prefill was of another prompt or cache_salt"
    assert made.claim("token", b"digest") is None


def test_a_guess_gets_nothing() -> None:
    made = offers()
    assert made.claim("guess", b"digest") == "the prefill server does not keep it any more"


def test_what_was_withdrawn_did_not_hold() -> None:
    made = offers()
    made.claim("token", b"digest")
    made.withdraw("token")
    assert not made.release("token")
    assert len(made) == 0


def test_it_grows_until_it_is_whole() -> None:
    made = Offers()
    made.add(Offer("token", b"digest", [], is_whole=False))
    assert made.part("token", 0) == Part([], False)
    made.extend(MoreOffered("token", [3, 4], is_whole=False))
    made.extend(MoreOffered("token", [9], is_whole=True))
    assert made.part("token", 1) == Part([4, 9], True)
    made.withdraw("token")
    made.extend(MoreOffered("token", [5], is_whole=True))
    assert made.part("token", 0) is None
