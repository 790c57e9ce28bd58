"""What every deployer for Countersign needs: its messages, signatures, state and server, and a conformance test."""

__version__ = "0.1.0"
