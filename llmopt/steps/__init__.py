"""Step types: what a recipe can ask for. One file each; this layer imports no torch."""
