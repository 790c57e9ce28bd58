"""From training to serving in one go: runs MLflow projects, registers what they made, has it promoted, and waits until
Ray Serve answers with it. `countersign bootstrap` is its command, and a container's entrypoint.

MLflow runs in processes of its own, so that nothing here is as heavy as it.
"""
