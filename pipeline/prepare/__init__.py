"""Prepare: make what a method needs before it can look."""
