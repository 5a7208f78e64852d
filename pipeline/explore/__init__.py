"""Explore: a ledger with its rows' text, vectors and losses, read window by window for a person.

`opening` finds the ledger that a path names, `texts` its rows' text, `observed` what models said
of them; `asked` is a question of the page, `explorer` answers it.
"""
