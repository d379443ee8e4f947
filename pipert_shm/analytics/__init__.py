"""What happened in front of a camera? Zones and lines, the rules that watch them, and the events that rules make."""
