"""Configs: one YAML a run, and the schema that says what may stand in it."""
