"""``python -m countersign_client``: the ``countersign`` command."""

from __future__ import annotations

from countersign_client.cli import main

if __name__ == "__main__":
    main()
