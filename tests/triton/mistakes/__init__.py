"""Mistakes that are planted on good repositories, each with what llmopt says of it."""
