"""What the gateway costs and what it gains, next to what else can stand before MLflow: ``python -m bench.proxy``.

All contenders of a row are up at the same time and take turns in the same run, so that what else the machine does
weighs on all alike. docs/guides/performance.md says how to read what is printed.
"""
