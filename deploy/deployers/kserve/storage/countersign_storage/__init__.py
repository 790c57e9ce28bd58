"""KServe's storage initializer for ``countersign://name/version``."""
