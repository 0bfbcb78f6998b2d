"""What drafts, as --speculative-config asks for it."""

from __future__ import annotations

from headway.server.config.speculative import SpeculativeConfig
from headway.server.engine.speculative.drafting import Drafting, Proposer
from headway.server.engine.speculative.ngram import NgramProposer
from headway.server.engine.speculative.undrawn import UndrawnProposer


def make_drafting(speculative: SpeculativeConfig) -> Drafting | None:
    """None: nothing is guessed."""
    settings = speculative.settings
    if settings is None:
        return None
    proposer: Proposer = NgramProposer(*settings.lookup_lengths) if settings.method == "ngram" else UndrawnProposer()
    return Drafting(proposer, settings.num_speculative_tokens)
