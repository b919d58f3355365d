"""The caller's priority."""

from ...core.contracts.policy import Candidate, Policy

__all__ = ("ByPriority",)


class ByPriority(Policy):
    """The smallest priority runs first; among equals, the oldest request."""

    def rank(self, candidate: Candidate) -> tuple[float, ...]:
        """By priority, then arrival."""
        return (candidate.priority, candidate.arrival)
