"""Completions: every text that a model writes for Gristmill comes through `client.complete`."""
