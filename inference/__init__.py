"""Using a trained model: open it, give it other settings, let it write text."""
