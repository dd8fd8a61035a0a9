"""Means of products of traces of words in a Wishart matrix W and powers of a matrix A, by Gaussian
integration by parts.

A word (g_1, ..., g_m) is tr(W A^g_1 W A^g_2 ... W A^g_m). A letter may stand for any matrix of a
commuting family that is closed under transposes: letters multiply by adding the integers, and
`turned` gives the word of the transpose. Source: derived.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache

Word = tuple[int, ...]
Turn = Callable[[Word], Word]
#: {(e, (k_1, ..., k_r)): factor of n^e p_k_1 ... p_k_r}, p_k the trace of the letter k.
Terms = Counter[tuple[int, tuple[int, ...]]]


def reverse(word: Word) -> Word:
    """The transpose where every letter is symmetric."""
    return word[::-1]


def _by_parts(
    word: Word, others: tuple[Word, ...], turned: Turn
) -> Iterator[tuple[int, tuple[int, ...], tuple[Word, ...]]]:
    """E[tr(word) prod tr(others)] = sum n^e p E[prod tr(words)]: each (e, (k,) for p = p_k or ()
    for p = 1, words).

    The first W_ab = sum_k X_ak X_bk of the word gives up X_ak for a derivative of all the rest: of
    X_bk, which is n 1_ab, and of each other W_ce, sum_k X_bk dW_ce/dX_ak = 1_ac W_be + 1_ae W_bc.
    In the same trace 1_ac turns a piece of the word around and 1_ae cuts it off; another trace is
    joined to the word in either direction.
    """
    *first, last = word
    start = tuple(first)
    [last_turned] = turned((last,))
    yield (1, (), (*others, (*start[1:], last + start[0]))) if start else (1, (last,), others)
    for j in range(1, len(word)):
        piece, middle, end = start[:j], start[j - 1], start[j:]
        yield 0, (), (*others, (*piece[:-1], middle + last_turned, *turned(end)))
        yield (
            (0, (), (*others, piece, (*end[1:], last + end[0])))
            if end
            else (0, (last,), (*others, piece))
        )
    for i, other in enumerate(others):
        rest = others[:i] + others[i + 1 :]
        for r in range(len(other)):
            turn = other[r:] + other[:r]
            yield 0, (), (*rest, (*turn[:-1], turn[-1] + last_turned, *turned(start)))
            yield 0, (), (*rest, (*start, last + turn[0], *turn[1:]))


def mean_of_words(turned: Turn) -> Callable[[tuple[Word, ...]], Terms]:
    """The function (word_1, word_2, ...) -> E[tr(word_1) tr(word_2) ...], which remembers what it
    has found.
    """

    @cache
    def canonical(word: Word) -> Word:
        """One of all the words of the same trace: it may start anywhere, and tr M = tr M^T."""
        return min(turn[i:] + turn[:i] for turn in (word, turned(word)) for i in range(len(word)))

    @cache
    def mean(words: tuple[Word, ...]) -> Terms:
        if not words:
            return Counter({(0, ()): 1})
        # The longest word first and the shortest taken away first: the fewest different products of
        # traces on the way.
        states = Counter(
            (e, parts, tuple(sorted(map(canonical, new), key=lambda word: (-len(word), word))))
            for e, parts, new in _by_parts(words[-1], words[:-1], turned)
        )
        total: Terms = Counter()
        for (e, parts, new), times in states.items():
            for (f, more), factor in mean(new).items():
                total[e + f, tuple(sorted(parts + more))] += times * factor
        return total

    return lambda words: mean(tuple(canonical(word) for word in words))
