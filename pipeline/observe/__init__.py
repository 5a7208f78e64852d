"""Observe: one pass per model and view for the union of the signals that scorers ask for."""
