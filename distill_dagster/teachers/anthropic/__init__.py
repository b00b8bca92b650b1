"""Anthropic's API as a teacher: one by one and in batches."""
