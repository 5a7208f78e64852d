"""Ingest: raw files to records of one kind, with a quarantine for rows that cannot be read."""
