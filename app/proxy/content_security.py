"""What a browser is told about each answer: who may frame it, what it may load, whether it may run a script.

MLflow's web interface, the files that anybody with an account uploads, and the console where promotions are approved
are one origin: a script in one could sign in another's name. MLflow itself sends no Content-Security-Policy
(measured on 3.17).
"""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.routes import ROUTES, Route, RouteClass

Pairs = tuple[tuple[bytes, bytes], ...]

# Each source was asked for by the walk of tests/e2e/test_the_ui_in_a_browser.py on MLflow 3.17, and by nothing less.
_INTERFACE = {
    "default-src": "'none'",
    # Its bundles. 'unsafe-eval' because Plotly draws with regl, which compiles its shaders' glue: without it parallel
    # coordinates and scatter plots say that the browser has no WebGL. Not 'unsafe-inline': a page among the artifacts
    # is shown in a sandboxed frame at a blob: address, which inherits this; it is shown, and its scripts do not run.
    "script-src": "'self' 'unsafe-eval'",
    # Emotion, AG Grid and Plotly write style elements and attributes as they render.
    "style-src": "'self' 'unsafe-inline'",
    # Images of artifacts and of traces are fetched and shown at blob: addresses; icons are data: addresses in the CSS.
    "img-src": "'self' blob: data:",
    # As above, for sound and moving pictures among the artifacts.
    "media-src": "blob:",
    # Icon fonts, some of them data: addresses in the CSS.
    "font-src": "'self' data:",
    # The API, and recordings, whose waves are drawn from a blob: address. No other host, telemetry or not.
    "connect-src": "'self' blob:",
    # Its telemetry, PDF and editor workers are files of the bundle.
    "worker-src": "'self'",
    # The preview of a page among the artifacts.
    "frame-src": "blob:",
    "manifest-src": "'self'",
    # The page that shows traces in a notebook has one.
    "base-uri": "'self'",
    # It has no form that a browser would send by itself.
    "form-action": "'none'",
    "frame-ancestors": "'self'",
}
_UPLOADED = {
    # Somebody's file, opened at its own address: an origin of its own that runs nothing, loads nothing, sends nothing.
    "sandbox": "",
    "default-src": "'none'",
    # A picture or a page that is shown anyhow may look as it was written.
    "style-src": "'unsafe-inline'",
    "img-src": "data:",
    "form-action": "'none'",
    "base-uri": "'none'",
    "frame-ancestors": "'self'",
}
_DATA = {
    # JSON and errors: never a document.
    "default-src": "'none'",
    "form-action": "'none'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
}


def protective(route: Route | None, *, https: bool) -> Pairs:
    """The headers to add to an answer, in the place of MLflow's of the same names. The same tuple each time.

    Args:
        route: what was asked for, or none where there is no such route.
        https: whether callers reach the gateway by HTTPS, so that they may be told never to do otherwise.
    """
    return _HEADERS[https][_POLICIES.get(route.template, "data") if route else "data"]


def _policy_of(route: Route) -> str:
    if route.route_class is RouteClass.UI_STATIC:
        return "interface"
    if route.template.endswith(_FILES):
        return "uploaded"
    return "data"


_FILES = (
    "/artifacts/<path:artifact_path>",
    "/artifacts/files",
    "/get-artifact",
    "/get-trace-artifact",
)
"""Where MLflow answers with the bytes of an artifact."""

_POLICIES: Mapping[str, str] = {route.template: _policy_of(route) for route in ROUTES}


def _headers(directives: Mapping[str, str], framed_by: str, *, https: bool) -> Pairs:
    policy = "; ".join(f"{name} {value}".strip() for name, value in directives.items())
    headers = {
        "content-security-policy": policy,
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        # The addresses of the interface name experiments and models, those of artifacts their files.
        "referrer-policy": "same-origin",
        "x-content-type-options": "nosniff",
        # For browsers that do not know frame-ancestors.
        "x-frame-options": framed_by,
    }
    if https:
        # Two years, RFC 6797 section 6.1.1. Not includeSubDomains: the other hosts are not ours.
        headers["strict-transport-security"] = "max-age=63072000"
    return tuple((name.encode(), value.encode()) for name, value in headers.items())


_HEADERS: Mapping[bool, Mapping[str, Pairs]] = {
    https: {
        "interface": _headers(_INTERFACE, "SAMEORIGIN", https=https),
        "uploaded": _headers(_UPLOADED, "SAMEORIGIN", https=https),
        "data": _headers(_DATA, "DENY", https=https),
    }
    for https in (False, True)
}
