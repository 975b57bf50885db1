"""llmopt: from checkpoint to served artifact, each step a few lines of YAML in git."""

__version__ = "0.1.0"
