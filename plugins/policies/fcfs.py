"""First come, first served."""

from ...core.contracts.policy import Candidate, Policy

__all__ = ("FirstComeFirstServed",)


class FirstComeFirstServed(Policy):
    """The oldest request runs first; the youngest gives way."""

    def rank(self, candidate: Candidate) -> tuple[float, ...]:
        """By arrival."""
        return (candidate.arrival,)
