"""What may be shown of other systems' messages: their end, without what looks like a secret.

A model that does not load chooses what its message is, so the work is bounded: every repetition has a limit, and no
more than the end of a message is looked at.
"""

from __future__ import annotations

import re

LONGEST_TAIL = 2000
"""Characters."""
_TIMES = 4
"""So much more of a message is looked at than is shown: a secret is known by what is before it."""

_COLOURS = re.compile(r"\x1b\[[0-9;]{0,20}m")
_NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_QUOTE = r"\\{0,3}['\"]"  # also one within a text that is quoted itself
_SECRETS = (
    # Up to the last @: a secret may hold one, and a slash. Without a host, as in file:///, there is none.
    (re.compile(r"(?P<keep>\b[a-z][a-z0-9+.-]{0,20}://)(?!/)[^\s'\"<>]{1,500}@", re.IGNORECASE), r"\g<keep>***@"),
    (re.compile(r"(?P<keep>\b(Bearer|Basic)\s{1,4})\S+", re.IGNORECASE), r"\g<keep>***"),
    (re.compile(r"whsec_[A-Za-z0-9+/=_-]+"), "***"),
    (re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b"), "***"),
    (re.compile(r"\b(hf_|gh[a-z]_|github_pat_|glpat-|xox[a-z]-)[A-Za-z0-9_-]{16,}"), "***"),
    (re.compile(r"(?P<keep>[?&]sig=)[^\s&'\"]+"), r"\g<keep>***"),
    (
        re.compile(
            r"(?P<keep>(secret|token|passw(or)?d|pwd|credential|signature|(access|account)_?key|api[-_ ]?key)"
            rf"[\w-]{{0,40}}({_QUOTE})?\s{{0,4}}[=:]\s{{0,4}})"
            rf"((?P<quote>{_QUOTE})((?!(?P=quote)).)+|([^\s'\",&}}]|,(?=\S))+)",
            re.IGNORECASE | re.DOTALL,
        ),
        r"\g<keep>\g<quote>***",
    ),
)


def plain(message: str) -> str:
    """A message without a terminal's colours, and without what no database takes: controls, half surrogate pairs."""
    return _NO_TEXT.sub("\ufffd", _COLOURS.sub("", message))


def masked(message: str, *, longest: int) -> str:
    """The end of a message, without what looks like a secret. It may be masked again, and stays as it is then."""
    message = plain(message[-_TIMES * longest :])
    for pattern, replacement in _SECRETS:
        message = pattern.sub(replacement, message)
    return message[-longest:]


def tail(message: str) -> str:
    """The end of a message, where a traceback names its error; what looks like a secret is masked."""
    return masked(message.strip(), longest=LONGEST_TAIL).strip()
