"""Deploys approved model versions to KServe when Countersign calls."""

__version__ = "0.1.0"
