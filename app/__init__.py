"""Countersign: a control plane in front of MLflow."""
