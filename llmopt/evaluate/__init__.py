"""How far a candidate model is from its baseline: perplexity, KL divergence, agreement."""
