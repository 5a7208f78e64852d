"""Benchmark compression: a few items of a task that tell what all of them would.

From the answers of many models to all items, a subset is searched whose accuracy, through a curve,
gives the accuracy on all items; a later evaluation asks the subset alone.
"""
