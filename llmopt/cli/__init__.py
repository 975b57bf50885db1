"""The command line: each command a thin way to write or run a recipe."""
