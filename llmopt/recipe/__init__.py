"""Recipes: read, resolved, planned and run. The recipe is the product's interface."""
