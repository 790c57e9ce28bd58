"""Formats of artifact files: by their first bytes, and by their names where those say more.

A loader goes by the name or by the bytes, so a file is a pickle if either says so. Nobody can tell every pickle by its
first bytes; a policy that wants none names the formats that it allows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

START = 1024
"""How many first bytes ``format_of`` wants."""

FORMATS: Mapping[str, str] = {
    "pickle": "runs code when it is loaded; also NumPy arrays of objects, and cloudpickle and dill",
    "joblib": "a pickle in another wrapping",
    "torch": "PyTorch's, with a pickle inside",
    "safetensors": "tensors, and nothing else",
    "onnx": "a graph of operators",
    "tensorflow": "a SavedModel's graph",
    "hdf5": "older Keras files, among others; can hold code (Lambda layers)",
    "keras": "Keras's own; can hold code (Lambda layers)",
    "gguf": "weights of language models",
    "lightgbm": "LightGBM's text",
    "numpy": "arrays",
    "parquet": "a table",
    "json": "",
    "yaml": "`MLmodel`, among others",
    "python": "source code",
    "text": "any other text",
    "zip": "an archive of anything",
    "tar": "an archive of anything",
    "compressed": "anything, compressed (gzip, bzip2, xz, zstd, lz4)",
    "empty": "no bytes at all",
    "unknown": "none of these, or not looked into",
}
"""Every value of ``file.format``, with what to think of it."""

PICKLES = frozenset({"pickle", "joblib", "torch"})
"""Formats that run code when they are loaded."""

_CODE_NAMES: Mapping[str, str] = {
    "pkl": "pickle",
    "pickle": "pickle",
    "cloudpickle": "pickle",
    "dill": "pickle",
    "joblib": "joblib",
    "pt": "torch",
    "pth": "torch",
    "ckpt": "torch",
}
_TEXT_NAMES: Mapping[str, str] = {"json": "json", "yaml": "yaml", "yml": "yaml", "py": "python"}

_PICKLE = re.compile(
    rb"\x80[\x02-\x05]"  # protocol 2 and later
    rb"|\(*c[A-Za-z_][\w.]*\r?\n[A-Za-z_][\w.]*\r?\n"  # earlier: a global
    rb"|\(+(?:[ld]p?[0-9]*\r?\n|[IFL][0-9.eE+-]+\r?\n|[VS][^\n]*\np[0-9]+\r?\n)"  # earlier: a list, a dictionary
    rb"|[\]})]q\x00"  # protocol 1
    rb"|\(i[A-Za-z_][\w.]*\r?\n[A-Za-z_]\w*\r?\n"  # earlier: an instance
)
_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"\x89HDF\r\n\x1a\n", "hdf5"),
    (b"PAR1", "parquet"),
    (b"GGUF", "gguf"),
    (b"tree\nversion=", "lightgbm"),
    (b"\x1f\x8b", "compressed"),
    (b"BZh", "compressed"),
    (b"\xfd7zXZ\x00", "compressed"),
    (b"\x28\xb5\x2f\xfd", "compressed"),
    (b"\x04\x22\x4d\x18", "compressed"),
)
_LONGEST_HEADER = 100_000_000
"""Of safetensors, in bytes (its own limit)."""


def format_of(path: str, size: int, start: bytes | None) -> str:
    """The format of a file.

    Args:
        path: relative to the root.
        size: in bytes.
        start: its first bytes, up to ``START``; none if nobody looked.
    """
    name = path.rpartition("/")[2].lower()
    ending = name.rpartition(".")[2]
    if size == 0:
        return "empty"
    if ending in _CODE_NAMES:
        return _CODE_NAMES[ending]
    if start is None:
        return "unknown"
    return _by_bytes(start, size) or _by_both(name, ending, start)


def _by_bytes(start: bytes, size: int) -> str | None:
    if _PICKLE.match(start):
        return "pickle"
    if start.startswith(b"\x93NUMPY"):
        return "pickle" if re.search(rb"'descr':[^}]*\|?O", start) else "numpy"
    if start.startswith(b"PK\x03\x04") and b"data.pkl" in start:
        return "torch"
    header = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and 2 <= header <= min(_LONGEST_HEADER, size - 8):
        return "safetensors"
    if start[257:262] == b"ustar":
        return "tar"
    return next((format_ for magic, format_ in _STARTS if start.startswith(magic)), None)


def _by_both(name: str, ending: str, start: bytes) -> str:
    if start.startswith(b"PK\x03\x04"):
        return "keras" if ending == "keras" else "zip"
    if start[:1] == b"\x08" and ending in {"onnx", "pb"}:
        return "onnx" if ending == "onnx" else "tensorflow"
    if not _is_text(start):
        return "unknown"
    return "yaml" if name == "mlmodel" else _TEXT_NAMES.get(ending, "text")


def _is_text(start: bytes) -> bool:
    try:
        start.decode()
    except UnicodeDecodeError as error:
        if len(start) - error.start > 3:  # the last character may be cut off
            return False
    return b"\0" not in start
