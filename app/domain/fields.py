"""Reads objects of a configuration file: every problem is kept with its path, so that all are said at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from app.domain.errors import InvalidConfiguration

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})

ReadSecret = Callable[[str], str]
"""See ``app.ports.SecretStore.read``."""


def is_safe_url(value: object) -> bool:
    """Whether an issuer may be asked there: https, or http on loopback, and nothing but an address."""
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or " " in value:
        return False
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        return False
    if not parts.hostname or parts.username is not None or parts.password is not None or parts.fragment:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK_HOSTS)


class Fields:
    """One object of the file. A value that is wrong is noted and left out, and the reading goes on."""

    def __init__(self, value: object, path: str, problems: list[str], read_secret: ReadSecret) -> None:
        self._path, self._problems, self._read_secret = path, problems, read_secret
        self._known: set[str] = set()
        self._values: Mapping[object, object] = value if isinstance(value, Mapping) else {}
        self._is_object = isinstance(value, Mapping)
        if not self._is_object:
            problems.append(f"{path}: expected an object")

    def expected(self, name: str, what: str) -> None:
        if self._is_object:
            self._problems.append(f"{self._path}.{name}: expected {what}")

    def has(self, name: str) -> bool:
        return self._values.get(name) is not None

    def text(self, name: str, *, needed: bool = False, among: tuple[str, ...] = ()) -> str:
        """A text; empty if it is not there."""
        value = self._take(name)
        if value is None and not needed:
            return ""
        if not isinstance(value, str) or not value or value != value.strip() or (among and value not in among):
            self.expected(name, f"one of {', '.join(among)}" if among else "a text")
            return ""
        return value

    def url(self, name: str, *, needed: bool = False) -> str:
        """An address of the issuer, kept as it is written: tokens are compared with it."""
        value = self.text(name, needed=needed)
        if value and not is_safe_url(value):
            self.expected(name, "an https:// URL (http:// only on loopback) without user and fragment")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        value = self._take(name)
        if value is None:
            return ()
        if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
            self.expected(name, "a list of texts")
            return ()
        return tuple(value)

    def patterns(self, name: str) -> Mapping[str, tuple[str, ...]]:
        """Claim to patterns; one pattern may stand for a list of one."""
        value = self._take(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping) or not value:
            self.expected(name, "an object of claim to patterns, as `repository: [acme/*]`")
            return {}
        rules: dict[str, tuple[str, ...]] = {}
        for claim, given in value.items():
            patterns = [given] if isinstance(given, str) else given
            if (
                not isinstance(claim, str)
                or not isinstance(patterns, list)
                or not patterns
                or not all(isinstance(item, str) and item for item in patterns)
            ):
                self.expected(f"{name}.{claim}", "a pattern or a list of patterns; numbers and truth values in quotes")
                continue
            rules[claim] = tuple(patterns)
        return rules

    def boolean(self, name: str, *, default: bool) -> bool:
        value = self._take(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.expected(name, "true or false")
            return default
        return value

    def whole(self, name: str, default: int, *, most: int) -> int:
        value = self._take(name)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            self.expected(name, f"a whole number from 0 to {most}")
            return default
        return value

    def secret(self, name: str, *, needed: bool = False) -> str | None:
        """A secret that a file or a variable holds; the configuration names which."""
        named = [(kind, self.text(f"{name}{kind}")) for kind in ("File", "Env") if self.has(f"{name}{kind}")]
        self._known |= {f"{name}File", f"{name}Env"}
        if len(named) > 1 or (needed and not named):
            self.expected(f"{name}File", f"{name}File or {name}Env, exactly one; the secret itself never")
            return None
        for kind, value in named:
            try:
                return self._read_secret(f"{kind.lower()}:{value}")
            except InvalidConfiguration as error:
                self._problems.append(f"{self._path}.{name}{kind}: {error.message}")
        return None

    def inner(self, name: str) -> Fields | None:
        value = self._take(name)
        return None if value is None else Fields(value, f"{self._path}.{name}", self._problems, self._read_secret)

    def nothing_else(self) -> None:
        """Refuse what was not asked for: a misspelt rule would be no rule."""
        for name in self._values:
            if name not in self._known:
                self._problems.append(
                    f"{self._path}.{name}: unknown field; expected one of {', '.join(sorted(self._known))}"
                )

    def _take(self, name: str) -> object:
        self._known.add(name)
        return self._values.get(name)
