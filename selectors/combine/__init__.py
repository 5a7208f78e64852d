"""Combinations: scores made of other scores.

score(z) = sum_m w_m q_m(z), with q_m the rank of z under method m as a share of the rows.
"""
