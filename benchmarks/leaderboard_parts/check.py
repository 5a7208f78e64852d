"""Cells made again in an empty store: are they those that are committed, to the bit?"""

def run(count):
    return 0
