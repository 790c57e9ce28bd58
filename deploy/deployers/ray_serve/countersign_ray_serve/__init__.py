"""Deploys approved model versions to Ray Serve when Countersign calls."""

__version__ = "0.1.0"
