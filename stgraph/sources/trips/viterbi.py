"""The hidden Markov model solved for many trips at once: the likeliest states, and how sure each of them is.

Trips advance together, one point a step. Rows (points) stand in order of step, then trip, longest trip first, so the
trips that are still driving are always the first rows of a step and every array of a step is a plain slice.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Steps:
    """An order of points in which all trips advance together.

    Attributes:
        order: ``[n]`` row -> point; points of one trip stand in a row in the original order.
        start: ``[steps + 1]`` first row of each step.
        previous: ``[n]`` row of the point before, of the same trip; -1 in the first step.
    """

    order: np.ndarray
    start: np.ndarray
    previous: np.ndarray

    @classmethod
    def of(cls, begins: np.ndarray) -> Steps:
        """From ``begins [n]``: whether a trip begins at each point."""
        first = np.flatnonzero(begins)
        length = np.diff(first, append=len(begins))
        rank = np.empty(len(first), np.int64)
        rank[np.argsort(-length, kind="stable")] = np.arange(len(first))
        step = np.arange(len(begins)) - np.repeat(first, length)
        order = np.lexsort((np.repeat(rank, length), step))
        start = np.concatenate([[0], np.cumsum(np.bincount(step))])
        previous = np.arange(len(begins)) - np.repeat(np.diff(start, prepend=0)[:-1], np.diff(start))
        previous[:start[1] if len(start) > 1 else 0] = -1
        return cls(order, start, previous)


@dataclass(frozen=True)
class Pairs:
    """All pairs of a state and a state of the row before it.

    ``S`` states stand in the order of rows, ``P`` pairs in the order of the later state, then the earlier.

    Attributes:
        states: ``[n + 1]`` first state of each row.
        ptr: ``[S + 1]`` first pair of each state; in the first step there is none.
        source: ``[P]`` the earlier state.
    """

    states: np.ndarray
    ptr: np.ndarray
    source: np.ndarray

    @classmethod
    def of(cls, steps: Steps, states: np.ndarray) -> Pairs:
        """All pairs of consecutive rows; ``states [n + 1]`` is the first state of each row."""
        count = np.diff(states)
        before = np.where(steps.previous >= 0, count[steps.previous], 0)
        size = np.repeat(before, count)
        return cls(states, np.concatenate([[0], np.cumsum(size)]),
                   ranges(np.repeat(states[steps.previous], count), size))

    def ahead(self, steps: Steps) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same pairs in the order of the earlier state: ``ptr [S + 1]``, the later state, and position here."""
        count = np.diff(self.states)
        size, first = np.zeros(len(count), np.int64), np.zeros(len(count), np.int64)
        later = np.flatnonzero(steps.previous >= 0)
        size[steps.previous[later]] = count[later]
        first[steps.previous[later]] = self.states[later]
        size = np.repeat(size, count)
        target = ranges(np.repeat(first, count), size)
        column = np.arange(self.states[-1]) - np.repeat(self.states[:-1], count)
        return np.concatenate([[0], np.cumsum(size)]), target, self.ptr[target] + np.repeat(column, size)


@dataclass(frozen=True)
class Solution:
    """What is likeliest, ``n`` rows.

    Attributes:
        state: ``[n]`` int64, state on the likeliest way through the whole piece.
        broken: ``[n]`` whether no state of the row before leads to any state of this one; a new piece begins here.
        confidence: ``[n]`` probability of the state given all points of the piece.
        joint: ``[n]`` probability of the states of the row before and of this one together; NaN at the start of a
            piece.
    """

    state: np.ndarray
    broken: np.ndarray
    confidence: np.ndarray
    joint: np.ndarray


def solve(steps: Steps, pairs: Pairs, emission: np.ndarray, transition: np.ndarray) -> Solution:
    """Viterbi and forward-backward over all trips (Rabiner, "A tutorial on hidden Markov models", 1989).

    Args:
        steps: The order of rows. Each row has one state at least.
        pairs: States and pairs of them.
        emission: ``[S]`` log weight of each state, finite.
        transition: ``[P]`` log weight of the move of each pair; minus infinity where it cannot be made.
    """
    score, forward, broken = _forward(steps, pairs, emission, transition)
    backward = _backward(steps, pairs, emission, transition, broken)
    state = _trace(steps, pairs, score, transition, broken)
    total = _log_sum(forward + backward, pairs.states)
    confidence = np.exp(forward[state] + backward[state] - total)
    joint = np.full(len(state), np.nan)
    rows = np.flatnonzero((steps.previous >= 0) & ~broken)
    here, there = state[rows], state[steps.previous[rows]]
    pair = pairs.ptr[here] + there - pairs.states[steps.previous[rows]]
    joint[rows] = np.exp(forward[there] + transition[pair] + emission[here] + backward[here] - total[rows])
    return Solution(state, broken, np.minimum(confidence, 1.0), np.minimum(joint, 1.0))


def _forward(steps: Steps, pairs: Pairs, emission: np.ndarray, transition: np.ndarray
             ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log weight of the best way to each state and of all ways to it ``[S]``, and whether a row is cut off ``[n]``."""
    score, forward, broken = emission.copy(), emission.copy(), np.zeros(len(steps.order), bool)
    for start, end in itertools.pairwise(steps.start[1:]):
        states = slice(pairs.states[start], pairs.states[end])
        ptr = pairs.ptr[states.start:states.stop + 1]
        source, moves = pairs.source[ptr[0]:ptr[-1]], transition[ptr[0]:ptr[-1]]
        ptr = ptr - ptr[0]
        best = np.maximum.reduceat(score.take(source) + moves, ptr[:-1])
        every = _log_sum(forward.take(source) + moves, ptr)
        if np.isneginf(best).any():
            first = pairs.states[start:end] - states.start
            lost = np.isneginf(np.maximum.reduceat(best, first))
            broken[start:end] = lost
            again = np.repeat(lost, np.diff(first, append=len(best)))
            best[again] = every[again] = 0.0
        score[states] += best
        forward[states] += every
    return score, forward, broken


def _backward(steps: Steps, pairs: Pairs, emission: np.ndarray, transition: np.ndarray, broken: np.ndarray
              ) -> np.ndarray:
    """Log weight of all ways from each state to the end of its piece, ``[S]``."""
    ptr, target, pair = pairs.ahead(steps)
    transition = transition.take(pair)
    joined = ~np.repeat(broken, np.diff(pairs.states))
    backward = np.zeros(len(emission))
    for start, end in reversed(list(itertools.pairwise(steps.start[1:]))):
        first = steps.previous[start]
        states = slice(pairs.states[first], pairs.states[first + end - start])
        later = pairs.states[start]
        ahead = emission[later:pairs.states[end]] + backward[later:pairs.states[end]]
        part = ptr[states.start:states.stop + 1]
        rows = slice(part[0], part[-1])
        ways = _log_sum(transition[rows] + ahead.take(target[rows] - later), part - part[0])
        backward[states] = np.where(joined[target[part[:-1]]], ways, 0.0)
    return backward


def _trace(steps: Steps, pairs: Pairs, score: np.ndarray, transition: np.ndarray, broken: np.ndarray) -> np.ndarray:
    """The state of each row on the best way, found from the last rows to the first."""
    later = pairs.states[steps.start[1]] if len(steps.start) > 1 else 0  # first state that has pairs
    back = np.empty(len(score), np.int64)
    back[later:] = pairs.source[_first_largest(score.take(pairs.source) + transition, pairs.ptr[later:])]
    state = _first_largest(score, pairs.states)
    for start, end in reversed(list(itertools.pairwise(steps.start[1:]))):
        rows = np.arange(start, end)
        rows = rows[~broken[rows]]
        state[steps.previous[rows]] = back[state[rows]]
    return state


def _first_largest(values: np.ndarray, ptr: np.ndarray) -> np.ndarray:
    """Position of the first largest value of each group; no group is empty."""
    if len(ptr) < 2:
        return np.zeros(0, np.int64)
    largest = np.repeat(np.maximum.reduceat(values, ptr[:-1]), np.diff(ptr))
    hits = np.flatnonzero(values == largest)
    return hits[np.searchsorted(hits, ptr[:-1])]


def _log_sum(values: np.ndarray, ptr: np.ndarray) -> np.ndarray:
    """``log(sum(exp(values)))`` of each group; minus infinity where all its values are. No group is empty."""
    if len(ptr) < 2:
        return np.zeros(0)
    largest = np.maximum.reduceat(values, ptr[:-1])
    largest[np.isneginf(largest)] = 0.0
    shifted = np.exp(values - np.repeat(largest, np.diff(ptr)))
    with np.errstate(divide="ignore"):
        return np.log(np.add.reduceat(shifted, ptr[:-1])) + largest


def ranges(first: np.ndarray, count: np.ndarray) -> np.ndarray:
    """``first[i], first[i] + 1, ...``, ``count[i]`` numbers each, one after the other."""
    return np.arange(count.sum()) + np.repeat(first - np.cumsum(count) + count, count)
