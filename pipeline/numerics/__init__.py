"""Numerics: ranks, similarity, coverage, order and intervals; nothing here knows of records."""
