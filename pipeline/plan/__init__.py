"""Plan: what a run will take, before any weight is loaded."""
