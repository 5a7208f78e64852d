"""The pipeline: schemas, contracts, the store and the verbs, ingest to export.

A run is `ingest -> clean -> observe -> score -> select -> export`; each verb is one file.
"""
