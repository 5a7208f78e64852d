"""Signals: what one model says of one record, read off a pass or by running the model."""
