"""What takes long: kills at random moments, several nodes."""
