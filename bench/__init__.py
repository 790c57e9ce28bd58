"""Measured comparisons, each one command. Ratios are what counts: absolute figures depend on the machine."""
