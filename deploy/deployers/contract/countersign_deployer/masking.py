"""What may be shown of other systems' messages: their end, without what looks like a secret.

A model that does not load chooses what its message is, so the work is bounded: every repetition has a limit, and no
more than the end of a message is looked at.
"""

from __future__ import annotations

import re

LONGEST_TAIL = 2000
"""Characters."""
_LOOKED_AT = 4 * LONGEST_TAIL

_COLOURS = re.compile(r"\x1b\[[0-9;]{0,20}m")
_NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_SECRETS = (
    (re.compile(r"(?P<keep>\b[a-z][a-z0-9+.-]{0,20}://)[^/\s@]{1,500}@", re.IGNORECASE), r"\g<keep>***@"),
    (re.compile(r"(?P<keep>\b(Bearer|Basic)\s{1,4})\S+", re.IGNORECASE), r"\g<keep>***"),
    (re.compile(r"whsec_[A-Za-z0-9+/=_-]+"), "***"),
    (re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b"), "***"),
    (re.compile(r"(?P<keep>[?&]sig=)[^\s&'\"]+"), r"\g<keep>***"),
    (
        re.compile(
            r"(?P<keep>(secret|token|passw(or)?d|credential|signature|access_?key|api_?key)[\w-]{0,40}['\"]?"
            r"\s{0,4}[=:]\s{0,4})((?P<quote>['\"])[^'\"]+|[^\s'\",&}]+)",
            re.IGNORECASE,
        ),
        r"\g<keep>\g<quote>***",
    ),
)


def plain(message: str) -> str:
    """A message without a terminal's colours, and without what no database takes: controls, half surrogate pairs."""
    return _NO_TEXT.sub("\ufffd", _COLOURS.sub("", message))


def tail(message: str) -> str:
    """The end of a message, where a traceback names its error; what looks like a secret is masked."""
    message = plain(message[-_LOOKED_AT:])
    for pattern, replacement in _SECRETS:
        message = pattern.sub(replacement, message)
    return message.strip()[-LONGEST_TAIL:]
