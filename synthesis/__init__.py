"""Synthesis: documents, rubrics and prompts in, verified training records out.

Imports `gristmill.pipeline` alone. A scorer that serves as reward is handed in, never imported.
"""
