"""Composition root: builds adapters and services once, from settings. The only importer of adapters beside services.

Nothing is imported here: a worker has no use for what a gateway needs, and starts a fifth sooner without it.
"""
