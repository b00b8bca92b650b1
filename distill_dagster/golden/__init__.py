"""The golden set: human-verified prompts and references that cap acceptable degradation."""
