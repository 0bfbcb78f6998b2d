"""What drafts, as --speculative-config asks for it."""

from __future__ import annotations

from headway.server.config.speculative import SpeculativeConfig
from headway.server.engine.speculative.drafting import Drafting
from headway.server.engine.speculative.ngram import NgramProposer


def make_drafting(speculative: SpeculativeConfig) -> Drafting | None:
    """None: nothing is guessed."""
    settings = speculative.settings
    return None if settings is None else Drafting(NgramProposer(*settings.lookup_lengths), settings.num_speculative_tokens)
