"""The conformance test: plays the gateway against any deployer, and says what it does otherwise than the contract.

From a test: start a ``PlayedGateway``, start your deployer with its ``url`` as the gateway's, and look at what
``examine`` returns. From a shell: ``countersign-deployer-conformance --help``.
"""

from countersign_deployer.conformance.checks import CHECKS, Outcome, Result, examine
from countersign_deployer.conformance.gateway import PlayedGateway
from countersign_deployer.conformance.play import Artifacts, Bounds, Subject, Unreachable

__all__ = ["CHECKS", "Artifacts", "Bounds", "Outcome", "PlayedGateway", "Result", "Subject", "Unreachable", "examine"]
