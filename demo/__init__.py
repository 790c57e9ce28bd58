"""The story of `make demo`: the main job from end to end, told on the terminal and checked at each step.

It uses Countersign as anybody would: the `countersign` command, HTTP, and MLflow's own client in processes of its own.
It imports nothing of `app/`.
"""
