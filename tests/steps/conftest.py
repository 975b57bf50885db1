"""Fixtures of the step tests."""

from tests.recipe.conftest import workplace

__all__ = ["workplace"]
