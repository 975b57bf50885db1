"""What an artifact is for: the serving target and the rules that decide whether it fits."""
