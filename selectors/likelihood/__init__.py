"""Likelihood: what a language model's loss on a record says of it.

l_t = -log p(x_t | x_<t), in nats, one value per predicted token; a score is a mean, a ratio or a
difference of such values under one or several models and views.
"""
