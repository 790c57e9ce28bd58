"""The shapes of requests and answers of ``/control/v1``."""
