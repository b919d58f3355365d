"""What steps take: plain ones by their size, and those with drafts beside them."""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Collection, Iterable

__all__ = ("Baseline", "DraftCosts", "PlainTimes", "lengths", "middle")

# Durations kept of one kind of step; their median counts, once there are a few.
_KEPT = 7
_BELIEVED = 3
# Drafts a row from which on a step shows what those of all would take.
_FEW = 0.25
# Share of the drafts of a length that must fit into a step that shows what it takes.
_FITS = 0.75
# Numbers of rows a fifth apart are told apart; a known one vouches for those two fifths away.
_BINS_PER_OCTAVE = 4
_NEAR = 2
# Steps at a number of rows that are planned by what others took before it is measured itself.
_UNMEASURED = 16
# Share by which a machine's speed may move unnoticed; and times by which plain steps must turn out
# shorter than believed to show that something else was measured before.
_SAME = 0.1
_SHORTER = 2.5
# What a step with drafts takes at least, in plain steps, whatever a clock says.
_LEAST_COST = 0.1
# Steps for which a cost counts while it is not measured again: what was slow once would never be
# tried again.
_STALE = 300
# What one more draft a row is believed to cost, in plain steps, until it was measured.
_FIRST_COST = 0.05
# Steps of one length until an executor has recorded them, or whatever it does to make them fast.
_SETTLED = 12
# Times the best known speed that an unknown length must promise.
_WORTH = 1.02


class PlainTimes:
    """Seconds of steps without drafts, by rows.

    Between numbers of rows that were measured, time grows with the root of their ratio: halfway
    between a device that takes as long for any number and one that takes as long for each row.
    """

    def __init__(self) -> None:
        self._kept: dict[int, deque[float]] = {}
        self._planned: dict[int, int] = {}
        self._believed: dict[int, float] = {}
        # Of these, what is to be measured again.
        self._forgotten: set[int] = set()

    def add(self, rows: int, seconds: float, steps: int = 1) -> float:
        """Take in a step, or the mean of several: how many times as long as believed such steps
        have turned out to be."""
        at = _bin(rows)
        kept = self._kept.setdefault(at, deque(maxlen=_KEPT))
        kept.extend([seconds / math.sqrt(max(rows, 1))] * min(steps, _BELIEVED))
        if len(kept) < _BELIEVED:
            return 1.0
        now = middle(kept)
        before = self._believed[at] if at in self._forgotten else now
        self._believed[at] = now
        self._forgotten.discard(at)
        self._planned[at] = 0
        return now / before

    def wanted(self, rows: int) -> bool:
        """Whether the step that is planned had better be a plain one, to be measured."""
        at = _bin(rows)
        forgotten = at in self._forgotten
        if at in self._believed and not forgotten:
            return False
        self._planned[at] = self._planned.get(at, 0) + 1
        near = _close(at, self._believed.keys() - self._forgotten)
        return forgotten or not near or self._planned[at] > _UNMEASURED

    def seconds(self, rows: int) -> float | None:
        """What a step of so many rows takes, as was believed last; None before any was measured."""
        at, believed = _bin(rows), self._believed
        found = believed.get(at)
        if found is None:
            if not believed:
                return None
            found = believed[min(believed, key=lambda known: abs(known - at))]
        return found * math.sqrt(max(rows, 1))

    def near(self, rows: int) -> float | None:
        """Seconds, where steps of about so many rows were measured."""
        return self.seconds(rows) if self.knows(rows) else None

    def knows(self, rows: int) -> bool:
        """Whether steps of about so many rows were measured."""
        return _close(_bin(rows), self._believed)

    def forget(self, rows: int) -> None:
        """The machine may have become slower, or faster."""
        at = _bin(rows)
        self._kept.pop(at, None)
        if at in self._believed:
            self._forgotten.add(at)


class Baseline:
    """What steps take where nobody drafts or may: all that drafts cost is measured against it.

    Attributes:
        plain: steps of one token a row; where a speculator watches, those that it is shown.
    """

    def __init__(self) -> None:
        self.plain = PlainTimes()
        self._unseen = PlainTimes()
        # By whether nothing ran before, so that launching it takes part in its time.
        self._prompts = {first: PlainTimes() for first in (False, True)}

    def seconds(self, rows: int) -> float | None:
        """What a plain step of so many rows takes, seen or unseen, whichever was faster."""
        unseen, plain = self._unseen.near(rows), self.plain.seconds(rows)
        return plain if unseen is None or plain is None else min(unseen, plain)

    def price(self, rows: int) -> float | None:
        """Of showing a plain step, in plain steps; None where nobody knows."""
        unseen, plain = self._unseen.near(rows), self.plain.near(rows)
        return None if unseen is None or plain is None else max(plain / unseen - 1, 0.0)

    def add_unseen(self, rows: int, seconds: float, steps: int) -> None:
        """Take in a plain step that was not shown, or the mean of several."""
        self._unseen.add(rows, seconds, steps)

    def add_prompts(self, tokens: int, seconds: float, *, first: bool) -> None:
        """Take in a step with chunks of prompts that nothing was drafted from."""
        self._prompts[first].add(tokens, seconds)

    def prompts(self, tokens: int, *, first: bool) -> float | None:
        """Seconds of such a step; None where none of about so many tokens was measured."""
        return self._prompts[first].near(tokens)


class DraftCosts:
    """How long steps with drafts are, a plain one being 1, by drafts a row.

    Attributes:
        changed: whether ``cost`` may have, since somebody last set this to False.
    """

    def __init__(self) -> None:
        self.changed = False
        self._steps = 0
        self._kept: dict[int, deque[float]] = {}
        self._medians: dict[int, float] = {}
        # Step of the last one measured, and how often and since when a length was asked for.
        self._measured: dict[int, int] = {}
        self._counts: dict[int, int] = {}
        self._trials: dict[int, tuple[int, int]] = {}

    def begin(self, passed: int) -> None:
        """A step is planned, so many after the last one of this size that might have drafts."""
        self._steps += passed

    def add(self, mean: float, cost: float, *, goes_on: bool) -> None:
        """Take in a step's drafts a row and what it cost.

        Few who try a draft do not show what drafts of all would take. The first step of several
        with drafts takes longer than the others, and so shows only what they take at most.

        Args:
            mean: drafts a row.
            cost: in plain steps.
            goes_on: whether the step before had drafts, too.
        """
        if mean < _FEW:
            return
        drafts = max(1, round(mean))
        if not goes_on and cost > self.cost(drafts):
            return
        kept = self._kept.get(drafts)
        if kept is None:
            kept = self._kept[drafts] = deque(maxlen=_KEPT)
        if drafts in self._medians and not self._fresh(drafts):
            kept.clear()
        kept.append(max(1 + (cost - 1) * drafts / mean, _LEAST_COST))
        self._measured[drafts] = self._steps
        self._counts[drafts] = self._counts.get(drafts, 0) + 1
        if len(kept) >= _BELIEVED:
            self._medians[drafts] = middle(kept)
            self.changed = True

    def cost(self, drafts: int) -> float:
        """Of a step with so many drafts a row; those beyond what is known cost as much each."""
        known = self._medians
        found = known.get(drafts)
        if found is not None:
            return found
        below = max((d for d in known if d < drafts), default=0)
        above = min((d for d in known if d > drafts), default=0)
        low = known.get(below, 1.0)
        if above:
            slope = (known[above] - low) / (above - below)
        elif below:
            slope = (low - 1) / below
        else:
            slope = _FIRST_COST
        return low + slope * (drafts - below)

    def reach(self, most: int) -> int:
        """Drafts of a row that may be asked for: unknown ones may take a step very long."""
        return min(most, max(1, 2 * max(self._medians, default=0)))

    def trial(
        self, speed: Callable[[int, float], float], most: int, fits: float, promise: float
    ) -> int:
        """The length to try because nobody knows what it takes, and it might be the best; or 0.

        Args:
            speed: by drafts and cost.
            most: drafts.
            fits: drafts of a row that all may have at once: of a length of which only some rows
                may have all, no step shows the cost.
            promise: times a plain row's speed that a length must be hoped to make: in a batch that
                ends with whoever has the least luck, a few steps with drafts gain nothing.
        """
        fresh = {d: c for d, c in self._medians.items() if self._fresh(d)}
        fastest = max([promise, *(speed(d, c) for d, c in fresh.items())])
        chosen, reach = 0, self.reach(most)
        for drafts in lengths(most):
            if drafts * _FITS > fits:
                break
            settled = self._counts.get(drafts, 0) >= _SETTLED
            if drafts in fresh and settled:
                continue
            if self._tried(drafts) > (_BELIEVED if settled else _SETTLED):
                continue
            hoped = self._hoped(drafts, settled=settled)
            if speed(drafts, hoped) > _WORTH * fastest:
                chosen, fastest = drafts, speed(drafts, hoped) / _WORTH
        # On the way to what is out of reach, what is not comes first.
        chosen = min(chosen, reach)
        if chosen:
            times = self._tried(chosen)
            since = self._trials[chosen][1] if times else self._steps
            self._trials[chosen] = times + 1, since
        return chosen

    def slower(self, times: float) -> None:
        """Plain steps take so many times as long as when these were measured.

        So do all steps of a machine that has become slower, and those that were measured since
        looked too dear. They take a part of it where plain ones were measured at a bad time, and
        then all that was measured looked too cheap.
        """
        if times > 1 + _SAME or times < 1 / _SHORTER:
            self._kept.clear()
            self.changed = True
            for drafts, cost in self._medians.items():
                self._medians[drafts] = max(1.0, cost / times)

    def _hoped(self, drafts: int, *, settled: bool) -> float:
        """A cost that is not too much to hope for."""
        known = self._medians
        if drafts in known and not settled:
            return 1 + (known[drafts] - 1) / 2
        if drafts == 1 or not known:
            return 1 + _FIRST_COST * drafts
        below = max(d for d in (0, *known) if d < drafts)
        low = known.get(below, 1.0)
        if drafts in known:
            # Measured long ago, perhaps in a bad moment.
            return (known[drafts] + low) / 2
        before = max((d for d in known if d < below), default=0)
        if not before:
            # What it takes to draft at all may be all that the first draft has shown.
            return low + _FIRST_COST * (drafts - below)
        slope = (low - known[before]) / (below - before)
        return low + max(slope, 0.0) / 2 * (drafts - below)

    def _fresh(self, drafts: int) -> bool:
        return self._measured[drafts] >= self._steps - _STALE

    def _tried(self, drafts: int) -> int:
        """How often a length was tried lately."""
        times, since = self._trials.get(drafts, (0, 0))
        return times if self._steps - since < _STALE else 0


@functools.cache
def lengths(most: int) -> tuple[int, ...]:
    """Numbers of drafts that are chosen from: few, so that each is soon known, and steps alike."""
    doublings = (1 << power for power in range(most.bit_length()))
    return tuple(sorted({*doublings, most}))


def middle(values: Iterable[float]) -> float:
    """Their median, or of an even number the larger one in the middle.

    Steps are planned in less time than ``statistics.median`` takes.
    """
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def _close(at: int, bins: Collection[int]) -> bool:
    return at in bins or any(abs(known - at) <= _NEAR for known in bins)


@functools.cache
def _bin(rows: int) -> int:
    return round(_BINS_PER_OCTAVE * math.log2(max(rows, 1)))
