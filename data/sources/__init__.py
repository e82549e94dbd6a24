"""Sources of text: the story world, Shakespeare's works, the user's own files, the Hub."""
