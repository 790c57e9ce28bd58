"""What is added to the page that MLflow's web interface is: one script of ours, the way to one's account.

MLflow's interface knows nobody, so it has no place to see as whom one is signed in, nor to sign out.
"""

from __future__ import annotations

_END = b"</body>"


def with_script(body: bytes, *, address: str) -> bytes:
    """The page with a script of ours at its end; unchanged if it is none.

    Args:
        body: what MLflow answered.
        address: where the script is, a path of ours.
    """
    before, end, after = body.rpartition(_END)
    if not end:
        return body
    return before + f'<script type="module" src="{address}"></script>'.encode() + end + after
