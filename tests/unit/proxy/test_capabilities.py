"""What ``server-info`` may promise."""

from __future__ import annotations

import json

import pytest

from app.proxy.capabilities import without_presigned

INFO = {
    "store_type": "SqlStore",
    "multipart_uploads_enabled": True,
    "multipart_downloads_enabled": True,
    "presigned_uploads_enabled": True,
}


def test_nothing_that_is_refused_is_promised() -> None:
    assert json.loads(without_presigned(json.dumps(INFO).encode())) == {
        "store_type": "SqlStore",
        "multipart_uploads_enabled": False,
        "multipart_downloads_enabled": False,
        "presigned_uploads_enabled": False,
    }


def test_opened_downloads_are_promised_as_mlflow_does_and_uploads_never() -> None:
    for able in (True, False):
        info = json.dumps(INFO | {"multipart_downloads_enabled": able}).encode()
        assert json.loads(without_presigned(info, downloads=True)) == {
            "store_type": "SqlStore",
            "multipart_uploads_enabled": False,
            "multipart_downloads_enabled": able,
            "presigned_uploads_enabled": False,
        }


@pytest.mark.parametrize("body", [b"", b"busy", b"[1]", b"\xff"])
def test_what_is_no_object_is_passed_on_as_it_is(body: bytes) -> None:
    assert without_presigned(body) == body
