"""Preference pairs: prompts in, candidates, verdicts, and pairs by a rule out."""
