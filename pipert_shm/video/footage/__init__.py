"""What is kept of a camera's encoded packets? Clips with what came before, and continuous recording."""
