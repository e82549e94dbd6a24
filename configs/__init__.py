"""Configs: one YAML file a run, the settings that it may hold, and the rules between them."""
