"""Routing: which of several reward models labels a pair.

Paper: arXiv:2510.02850 (BayesianRouter). A small encoder learns from verified pairs which reward
model is right where; Thompson sampling starts from what it learnt and goes on with feedback. One
reward model is asked a pair, not all of them.
"""
