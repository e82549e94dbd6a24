"""Configs: one YAML file per run, the settings that it may contain, and the rules between them."""
