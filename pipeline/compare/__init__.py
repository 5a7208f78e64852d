"""Compare: did a selection train a better model than random rows would have?

An **arm** is a way of choosing rows at a budget; a **cell** is one model trained on one draw of an
arm with one seed, measured on rows that nobody trained on. All arms share a recipe; the learning
rate is chosen for each on rows of its own. Cells are entries of the store: found, never repeated.
"""
