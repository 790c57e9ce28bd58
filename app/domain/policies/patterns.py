"""Whether shell patterns can match one and the same name.

A pattern is read as a small automaton, and the automata walk together: there is such a name exactly if all can end at
once. The characters that need trying are those that the patterns name, their neighbours (where a range ends), and one
that no pattern names. What a bracket means is asked of ``fnmatch`` itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

_MOST_STATES = 100_000
"""Beyond it the answer is yes: what cannot be told apart in time is held to overlap."""

_STAR = "*"
_WILD = re.compile(r"[*?\[\]]")

_Automaton = Sequence[tuple[bool, frozenset[str]]]
"""For each part of a pattern: whether it is a star, and which of the tried characters it matches."""


def can_match_together(patterns: Iterable[str]) -> bool:
    """Whether some text matches every one of these ``fnmatch`` patterns."""
    patterns = list(dict.fromkeys(patterns))
    plain = [pattern for pattern in patterns if not _WILD.search(pattern)]
    if plain:
        return all(fnmatchcase(name, pattern) for name in plain for pattern in patterns)
    if _differ([_WILD.split(pattern)[0] for pattern in patterns], str.startswith):
        return False
    if _differ([_WILD.split(pattern)[-1] for pattern in patterns], str.endswith):
        return False
    return _walk_together(patterns)


def _differ(texts: Sequence[str], agree: Callable[[str, str], bool]) -> bool:
    """Whether what names must begin or end with is not the same thing, as far as it goes: most pairs are told so."""
    longest = max(texts, key=len)
    return not all(agree(longest, text) for text in texts)


def _walk_together(patterns: Sequence[str]) -> bool:
    taken_apart = [_parts(pattern) for pattern in patterns]
    tried = _characters(taken_apart)
    automata: list[_Automaton] = [
        [(part == _STAR, frozenset(each for each in tried if fnmatchcase(each, part))) for part in parts]
        for parts in taken_apart
    ]
    first = tuple(0 for _ in automata)
    seen, waiting = {first}, [first]
    while waiting:
        state = waiting.pop()
        if len(seen) > _MOST_STATES or all(map(_has_ended, automata, state)):
            return True
        following = {*_without_stars(automata, state), *_steps(automata, state)} - seen
        waiting += following
        seen |= following
    return False


def _parts(pattern: str) -> tuple[str, ...]:
    """A character, ``?``, ``*`` or a bracket each, as ``fnmatch.translate`` takes them apart."""
    parts: list[str] = []
    place = 0
    while place < len(pattern):
        part = pattern[place]
        if part == "[":
            end = place + 1 + (pattern[place + 1 : place + 2] == "!")
            end = pattern.find("]", end + (pattern[end : end + 1] == "]"))
            part = pattern[place : end + 1] if end >= 0 else "[[]"
            place = end if end >= 0 else place
        if part != _STAR or parts[-1:] != [_STAR]:
            parts.append(part)
        place += 1
    return tuple(parts)


def _characters(taken_apart: Iterable[Sequence[str]]) -> Sequence[str]:
    every = {part for parts in taken_apart for part in parts}
    named = {part for part in every if len(part) == 1}
    for character in (character for part in every if len(part) > 1 for character in part):
        named |= {chr(code) for code in range(max(0, ord(character) - 1), min(0x10FFFF, ord(character) + 1) + 1)}
    return [*named, next(other for code in range(0xE000, 0x10FFFF) if (other := chr(code)) not in named)]


def _has_ended(parts: _Automaton, place: int) -> bool:
    return place == len(parts)


def _without_stars(automata: Sequence[_Automaton], state: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """What a state also is: a star may stand for nothing more."""
    for index, (parts, place) in enumerate(zip(automata, state, strict=True)):
        if not _has_ended(parts, place) and parts[place][0]:
            yield (*state[:index], place + 1, *state[index + 1 :])


def _steps(automata: Sequence[_Automaton], state: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Where all are after one more character that each of them matches: a star stays where it is."""
    if any(map(_has_ended, automata, state)):
        return
    parts = [parts[place] for parts, place in zip(automata, state, strict=True)]
    if frozenset.intersection(*(matching for _, matching in parts)):
        yield tuple(place + (not is_star) for place, (is_star, _) in zip(state, parts, strict=True))
