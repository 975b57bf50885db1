"""Tokenizer and postprocessor of ensembles; each model's version folder holds its own modules."""
