"""Preference data curation: models and people check the labels of pairs, round after round.

Paper: arXiv:2507.01352 (Skywork-Reward-V2). Stage 1: people verify a few pairs (gold); a reward
model is trained on pairs that judges labelled (silver) and asked about the gold ones; where it errs
the most similar unverified pairs are labelled next. Stage 2: an unverified pair stays if its label
agrees with a reward model of the gold pairs, and with the judges or the best reward model.

A **label** says which of a record's own two sides is the better one, "chosen" or "rejected": the
record is turned round only when it is published.
"""
