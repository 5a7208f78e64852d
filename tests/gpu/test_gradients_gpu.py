"""Gradients on a CUDA device in bfloat16 against the CPU in float32."""

import pytest
import torch
from gradient_toys import dialogues, llama, packed_batch, padded_batch, relative
from scipy.stats import spearmanr

from gristmill.pipeline.models.gradients.engine import gradient_engine
from gristmill.pipeline.models.gradients.inner_products import GhostNorm
from gristmill.pipeline.models.gradients.projections import (
    CountSketched,
    Factored,
    Masked,
    TensorSketch,
)
from gristmill.pipeline.numerics.similarity import task_scores, task_vectors

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
KINDS = (Factored(k=16), Masked(inputs=16, outputs=16, size=256), TensorSketch(size=64))


def features(model, rows, *kinds):
    engine = gradient_engine(model, *kinds)
    batches = [padded_batch(rows[i : i + 20]) for i in range(0, len(rows), 20)]
    parts = [engine.run(*b).features for b in batches]
    return [torch.cat([p[i] for p in parts]).cpu() for i in range(len(kinds))]


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_on_the_device_ranks_rows_as_float32_on_the_cpu(kind):
    pool = dialogues([8 + i % 30 for i in range(200)], seed=1)
    aims = dialogues([12, 20, 31], seed=2)
    scores = []
    for model in (llama(torch.float32), llama(torch.bfloat16).cuda()):
        (x,), (y,) = features(model, pool, kind), features(model, aims, kind)
        _, vectors = task_vectors(y.numpy(), ["t"] * 3)
        scores.append(task_scores([x.numpy()], vectors)[:, 0])
    assert spearmanr(*scores).statistic > 0.99
    top = [set(s.argsort()[-10:]) for s in scores]
    assert len(top[0] & top[1]) >= 9


def test_float32_on_the_device_equals_the_cpu_and_itself():
    rows = dialogues([9, 14, 5, 11])
    kinds = (*KINDS, CountSketched(size=128), GhostNorm())
    torch.backends.cuda.matmul.allow_tf32 = False
    here = features(llama(torch.float32), rows, *kinds)
    model = llama(torch.float32).cuda()
    there, again = features(model, rows, *kinds), features(model, rows, *kinds)
    for a, b, c in zip(here, there, again, strict=True):
        assert relative(b, a) < 1e-4
        assert torch.equal(b, c)


def test_packing_on_the_device():
    model, rows = llama(torch.float32).cuda(), dialogues([9, 14, 5, 11])
    engine = gradient_engine(model, Factored(k=4))
    *batch, segments = packed_batch(rows, width=24)
    packed = engine.run(*batch, segment_ids_BT=segments).features[0]
    assert relative(packed, engine.run(*padded_batch(rows)).features[0]) < 1e-4
