"""How fast messages go out, and that none is lost: see ``__main__.py``."""
