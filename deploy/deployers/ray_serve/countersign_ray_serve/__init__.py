"""Deploys approved model versions to Ray Serve when Countersign calls."""
