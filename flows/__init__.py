"""Flows: the runs a team schedules. Thin Prefect wrappers around the verbs of `gristmill.pipeline`.

`config.py` holds the settings of a run, `steps.py` what each task does (without Prefect), the other
files one flow each. Prefect is imported nowhere else, and only when a flow runs.
"""
