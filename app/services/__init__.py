"""Use cases: load, ask the domain, write, commit."""
