"""Rollouts and outcomes in memory"""

import json

import polars as pl

from gristmill.pipeline.contracts import Frames


def rollout(text, whole=True, logprob=-1.0, tokens=1):
    return {"text": text, "tokens": tokens, "logprob": logprob, "whole": whole}


def meta_pool(*metas):
    ids = [f"r{i}" for i in range(len(metas))]
    return Frames(parts=(pl.DataFrame({"id": ids, "meta": [json.dumps(m) for m in metas]}),))
