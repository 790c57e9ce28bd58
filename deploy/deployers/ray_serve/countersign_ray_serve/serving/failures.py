"""Why a replica does not serve a version. Each class is called as its reason is, for the deployer reads it in Ray's
message: the traceback's last line is all that gets out of a replica that could not start.
"""

from __future__ import annotations

import sys


class NotServable(Exception):
    """The version cannot be served. The message is one line, for people."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split())[:1000])


class ArtifactNotFound(NotServable):
    """There are no files at the address."""


class StorageDenied(NotServable):
    """The replica may not read the address."""


class StorageUnreachable(NotServable):
    """The store did not answer, or not as a store does."""


class DigestMismatch(NotServable):
    """The files are not those that were approved."""


class PythonVersionMismatch(NotServable):
    """The model was saved with another minor version of Python."""


class DependencyMissing(NotServable):
    """The model needs a package that is not there."""


_DENIED = (
    "403",
    "accessdenied",
    "access denied",
    "forbidden",
    "unauthorized",
    "permission denied",
    "invalidaccesskeyid",
    "signaturedoesnotmatch",
    "expiredtoken",
    "invalidtoken",
    "nocredentials",
    "unable to locate credentials",
)
_ABSENT = (
    "404",
    "nosuchkey",
    "nosuchbucket",
    "not found",
    "no such file",
    "no such artifact",
    "does not exist",
)


def of_storage(uri: str, error: BaseException) -> NotServable:
    """What an error in reading ``uri`` means: nobody's storage client says it by its class alone.

    What is neither a denial nor an absence is taken for a store that is away, so it is tried again.
    """
    chain = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    said = f"{uri}: {type(error).__name__}: {error}"
    if any(isinstance(each, ImportError) for each in chain):
        return of_import(next(each for each in chain if isinstance(each, ImportError)))
    # The address itself may contain any of these words.
    text = " ".join(f"{type(each).__name__} {each}" for each in chain).replace(uri.rstrip("/"), "").lower()
    if any(isinstance(each, PermissionError) for each in chain) or any(word in text for word in _DENIED):
        return StorageDenied(said)
    if any(isinstance(each, FileNotFoundError) for each in chain) or any(word in text for word in _ABSENT):
        return ArtifactNotFound(said)
    return StorageUnreachable(said)


def of_import(error: ImportError) -> DependencyMissing:
    """A package that is not there, named as far as Python knows it."""
    name = (error.name or "").partition(".")[0]
    what = f"The package '{name}' is not installed" if name else "A package is not installed as the model needs it"
    return DependencyMissing(f"{what} where the replicas run: {type(error).__name__}: {error}")


def refuse_other_python(saved_with: str | None) -> None:
    """Refuse a model of another minor version of Python than this one: pickles need not survive the difference.

    Args:
        saved_with: the ``python_version`` of the model's Python flavour, as ``3.11.7``; nothing is known without it.

    Raises:
        PythonVersionMismatch: it is another one.
    """
    ours = ".".join(map(str, sys.version_info[:3]))
    if saved_with and saved_with.split(".")[:2] != ours.split(".")[:2]:
        raise PythonVersionMismatch(
            f"The model was saved with Python {saved_with}, the replicas run Python {ours}: log the model with"
            f" Python {'.'.join(ours.split('.')[:2])}, or have Ray run {'.'.join(saved_with.split('.')[:2])}."
        )
