"""OpenID providers and other token issuers, as we reach them: their metadata, their keys, and what they sign."""

from app.adapters.oidc.verifier import TrustedIssuers

__all__ = ["TrustedIssuers"]
