"""Python models that are copied into repositories as they stand, and run there without llmopt.

They import each other relatively (the server imports `1/model.py` as `1.model`), keep to Python
3.10's grammar, and need what the repository's requirements.txt names.
"""
