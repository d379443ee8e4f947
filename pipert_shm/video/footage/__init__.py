"""What is kept of a camera's encoded packets? Clips of events, and all of it in files of a minute; nothing is encoded anew."""
