"""Rounding of weights to integers: GPTQ and round-to-nearest, one decoder block at a time."""
