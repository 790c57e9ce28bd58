"""Our REST API: HTTP only. Parse, one service call, a schema back."""
