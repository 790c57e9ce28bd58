"""What runs inside Ray as a package that Ray hands to its nodes, for clusters whose image lacks it.

It is named by its content, so an upload never changes what runs. Ray loses it with its head: the bytes of each package
that an application may still need are kept beside the state.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_FOLDER = "packages"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first that a zip file can tell; one content has one name


@cache
def _built() -> tuple[str, bytes]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as package:
        for file in (_HERE / "__init__.py", *sorted((_HERE / "serving").glob("*.py"))):
            info = zipfile.ZipInfo(file.relative_to(_HERE.parent).as_posix(), _EPOCH)
            info.external_attr = 0o644 << 16
            package.writestr(info, file.read_bytes())
    content = buffer.getvalue()
    return f"gcs://_ray_pkg_{hashlib.sha256(content).hexdigest()[:40]}.zip", content


def current() -> str:
    """The address in Ray of the package as it is installed here."""
    return _built()[0]


def needed(config: Mapping[str, Any]) -> Iterator[str]:
    """The packages that a configuration's applications name, each once."""
    named = [uri for app in config["applications"] for uri in app.get("runtime_env", {}).get("py_modules", ())]
    yield from dict.fromkeys(named)


def content_of(uri: str, state_dir: Path) -> bytes | None:
    """The bytes of a package, kept from now on; ``None`` when nobody has them any more."""
    kept = state_dir / _FOLDER / uri.removeprefix("gcs://")
    name, content = _built()
    if uri == name:
        if not kept.exists():
            kept.parent.mkdir(exist_ok=True)
            draft = kept.with_suffix(".tmp")
            draft.write_bytes(content)
            draft.replace(kept)
        return content
    return kept.read_bytes() if kept.is_file() else None
