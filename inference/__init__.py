"""Use a trained model: open it, change the settings that carry no weights, generate text."""
