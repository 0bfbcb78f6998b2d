from __future__ import annotations

from headway.server.engine.kv.transfer.nixl.layer_progress import HostProgress
from headway.server.engine.kv.transfer.nixl.offers import Known, Offers, Part
from headway.server.engine.kv.transfer.orders import Computing, MoreOffered, Offer

OFFER = Offer("token", b"digest", [3, 4])


def offers() -> Offers:
    made = Offers(3, HostProgress)
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
    made = Offers(3, HostProgress)
    made.add(Offer("token", b"digest", [], is_whole=False))
    assert made.part("token", Known(0)) == Part([], False, 0)
    made.extend(MoreOffered("token", [3, 4], is_whole=False))
    made.extend(MoreOffered("token", [9], is_whole=True))
    assert made.part("token", Known(1)) == Part([4, 9], True, 3)
    made.withdraw("token")
    made.extend(MoreOffered("token", [5], is_whole=True))
    assert made.part("token", Known(0)) is None


def test_of_a_step_that_runs_its_layers_are_told() -> None:
    made = Offers(3, HostProgress)
    made.add(Offer("token", b"digest", [], is_whole=False))
    made.compute(Computing("token", 0, [3, 4]))
    assert made.part("token", Known(0)) == Part([], False, 0), "the step has not begun"
    first = made.begin_step()
    assert first is not None
    assert made.begin_step() is None, "the next step computes nothing of it"
    made.compute(Computing("token", 2, [5, 6]))
    second = made.begin_step()
    assert second is not None
    assert made.part("token", Known(0)) == Part([], False, 0, is_computing=True)
    first.on_layer()
    second.on_layer()
    assert made.part("token", Known(0)) == Part([3, 4], False, 1, is_computing=True)
    assert made.part("token", Known(0, 2, 1)) == Part([], False, 1, is_computing=True)
    first.on_layer()
    assert made.part("token", Known(0, 2, 1)) == Part([3, 4], False, 2, is_computing=True)
    first.on_layer()
    assert made.part("token", Known(0, 2, 2)) == Part([], False, 2), "its last layer is told with its end"
    made.extend(MoreOffered("token", [3], is_whole=False))
    assert made.part("token", Known(0, 2, 2)) == Part([], False, 2)
    made.extend(MoreOffered("token", [4, 5, 6], is_whole=True))
    assert made.part("token", Known(0, 2, 2)) == Part([3, 4], False, 3)
    assert made.part("token", Known(2)) == Part([5, 6], True, 3)
