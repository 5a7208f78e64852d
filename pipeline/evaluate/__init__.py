"""Evaluate: held-out loss and preference accuracy, per row and with intervals over the rows.

Each function returns a table with one row per input row (what could not be shown has a reason) and
a summary; the table is kept in the store, so that asking again costs nothing.
"""
