"""Vocabulary, protocols, the robot model and configuration; imports nothing else of safeguard."""
