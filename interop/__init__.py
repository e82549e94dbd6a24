"""A model trained here, in the formats of others, and back. No other room imports this one."""
