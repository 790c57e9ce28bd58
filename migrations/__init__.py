"""The history of the schema. Applied by `countersign migrate`."""
