"""``python -m app.cli`` is ``countersign``."""

from app.cli import main

main()
