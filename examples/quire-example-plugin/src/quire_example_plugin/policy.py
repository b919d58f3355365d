"""Shortest prompt first: short questions do not wait behind long documents."""

from quire.core.contracts.policy import Candidate, Policy

__all__ = ("ShortestPrompt",)


class ShortestPrompt(Policy):
    """Orders by the tokens a request brings; equal ones by arrival."""

    def rank(self, candidate: Candidate) -> tuple[float, ...]:
        """Fewer tokens run sooner."""
        return (candidate.num_tokens, candidate.arrival)
