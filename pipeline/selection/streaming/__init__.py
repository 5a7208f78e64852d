"""Selection that never holds the pool: sorted runs on disk, ranges of them, a ledger in parts.

Every row's exact rank is in the ledger, so the pool has to be put in order; it is done in bounded
memory. Rows are read in units of `scores.UNIT_ROWS`; each unit leaves a sorted *run* of keys (an
ordered float, then the id in two words), runs are cut into *ranges* that memory holds, each range
is sorted, and its result goes back to the rows' own units (`runs.py`). The stages are: who falls to
cleaning or as a copy (`fates.py`), what is ranked (`candidates.py`), the rule's order and the
budget's walk along it (`orders.py`), the ledger, a part for every unit (`ledger.py`).

Each stage is a step of a store inside the ledger's own working folder: a run that was killed goes
on with the unit or range at which it stood, and the folder goes when the ledger is there.
"""
