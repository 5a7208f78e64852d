"""Controls: what every method must beat before its gain is called one.

score(z) = u(seed, id), or the number of tokens of the answer. They read no target set and no model
weights. A method that does not beat `random` (and random balanced by source: `random` under the
rule `stratified`) at equal budget has not been shown to work.
"""
