"""S3 and STS over real HTTP (moto), with what moto leaves out: what is lent may do what its session policy says."""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qs, unquote

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass
class S3Server:
    """``heeds`` says whether it limits lent credentials; ``asked`` are the calls of STS; ``seen`` the paths of S3."""

    url: str = ""
    heeds: bool = True
    refuses_signed: bool = False
    asked: list[Mapping[str, str]] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    policies: dict[str, Any] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {**ENVIRONMENT, "AWS_ENDPOINT_URL": self.url}

    def allows(self, key: str, path: str, query: Mapping[str, list[str]]) -> bool:
        bucket, _, name = path.strip("/").partition("/")
        for statement in self.policies[key]["Statement"]:
            resource = statement["Resource"][0].removeprefix("arn:aws:s3:::")
            if name and "s3:GetObject" in statement["Action"] and fnmatchcase(f"{bucket}/{name}", resource):
                return True
            if not name and "s3:ListBucket" in statement["Action"] and resource == bucket:
                wanted = statement["Condition"]["StringLike"]["s3:prefix"][0]
                return fnmatchcase(query.get("prefix", [""])[0], wanted)
        return False


@contextmanager
def running_s3() -> Iterator[S3Server]:
    server, moto = S3Server(), DomainDispatcherApplication(create_backend_app)

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        path, query = unquote(environ["PATH_INFO"]), parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
        signed_by = environ.get("HTTP_AUTHORIZATION", "") + " Credential=".join(
            ["", *query.get("X-Amz-Credential", [])]
        )
        key = found.group(1) if (found := re.search(r"Credential=([A-Za-z0-9]+)/", signed_by)) else ""
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        form = {name: values[0] for name, values in parse_qs(body.decode("latin-1")).items()} if path == "/" else {}
        environ["wsgi.input"] = io.BytesIO(body)
        if not form:
            server.seen.append(path)
        is_refused = server.refuses_signed and "X-Amz-Signature" in query
        if is_refused or (server.heeds and key in server.policies and not server.allows(key, path, query)):
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [b"<Error><Code>AccessDenied</Code></Error>"]
        answer = moto(environ, start_response)
        if form.get("Action") in {"AssumeRole", "GetFederationToken"}:
            content = b"".join(answer)
            server.asked.append(form)
            given = re.search(r"<AccessKeyId>(\w+)<", content.decode())
            if given and "Policy" in form:
                server.policies[given.group(1)] = json.loads(form["Policy"])
            return [content]
        return answer

    class Quiet(WSGIRequestHandler):
        def log(self, *args: Any) -> None:
            """Nothing."""

    listening = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    server.url = f"http://127.0.0.1:{listening.server_port}"
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()
