"""Random projections of gradients: exact identities, and the statistics that they promise."""

# D = buckets

import numpy as np
import pytest
import torch
from gradient_toys import (
    Given,
    dialogues,
    llama,
    packed_batch,
    padded_batch,
)
from torch import nn
from toy_training import one_thread  # noqa: F401  (a fixture)

from gristmill.pipeline.models.gradients import layout as layout_module
from gristmill.pipeline.models.gradients.engine import gradient_engine
from gristmill.pipeline.models.gradients.hooks import row_gradients
from gristmill.pipeline.models.gradients.layers import Layer
from gristmill.pipeline.models.gradients.layout import Layout
from gristmill.pipeline.models.gradients.projections import (
    Capped,
    CountSketched,
    DenseJL,
    Factored,
    Full,
    Masked,
    TensorSketch,
    two_sided,
)
from gristmill.pipeline.models.gradients.random_bits import (
    CountSketch,
    bucket_slots,
    random_signs,
    random_words,
)
from gristmill.pipeline.numerics.similarity import from_half, to_half

ROWS, TOKENS, INPUTS, OUTPUTS = 2, 7, 24, 20
LAYOUT = Layout(shape=(ROWS, TOKENS), rows=ROWS)


def related(seed=0):
    """Two rows whose gradients have a cosine well away from 0 and 1."""
    draw = torch.Generator().manual_seed(seed)
    common = torch.randn(1, TOKENS, INPUTS + OUTPUTS, generator=draw, dtype=torch.float64)
    own = torch.randn(ROWS, TOKENS, INPUTS + OUTPUTS, generator=draw, dtype=torch.float64)
    x = common + 0.7 * own
    return Given(x[..., :INPUTS], x[..., INPUTS:])


def features(*wanted, net=None):
    net = net or related()
    return row_gradients(net, net.loss, LAYOUT, *wanted)


def philox4x64(key, counter):
    """Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011), ten rounds."""
    k, c, mask = list(key), list(counter), 2**64 - 1
    for _ in range(10):
        low = 0xD2E7470EE14C6C93 * c[0]
        high = 0xCA5A826395121157 * c[2]
        c = [(high >> 64) ^ c[1] ^ k[0], high & mask, (low >> 64) ^ c[3] ^ k[1], low & mask]
        k = [(k[0] + 0x9E3779B97F4A7C15) & mask, (k[1] + 0xBB67AE8584CAA73B) & mask]
    return c


def test_random_words_are_philox_of_the_hashed_name():
    import hashlib

    name = hashlib.blake2b(b"(3, 'factored', 'layer', 'in')", digest_size=16).digest()
    key = [int.from_bytes(name[i : i + 8], "little") for i in (0, 8)]
    expected = [w for block in (1, 2, 3) for w in philox4x64(key, [block, 0, 0, 0])]
    assert random_words(12, 3, "factored", "layer", "in").tolist() == expected
    bits = [(expected[0] >> i) & 1 for i in range(64)]
    assert random_signs(64, 3, "factored", "layer", "in").tolist() == [2 * b - 1 for b in bits]


def test_words_of_different_names_and_seeds_are_unrelated():
    base = random_signs(40_000, 0, "a").astype(int)
    for key in ((1, "a"), (0, "b"), ("0", "a")):
        other = random_signs(40_000, *key).astype(int)
        assert abs((base * other).mean()) < 5 / 200  # five standard deviations


def test_a_full_orthogonal_projection_keeps_inner_products():
    torch.manual_seed(0)
    inner, _ = torch.linalg.qr(torch.randn(INPUTS, INPUTS, dtype=torch.float64))
    outer, _ = torch.linalg.qr(torch.randn(OUTPUTS, OUTPUTS, dtype=torch.float64))
    z, g = features(lambda layer: two_sided(inner, outer), Full())
    assert torch.allclose(z @ z.T, g @ g.T, rtol=1e-12)


def test_a_side_no_larger_than_k_is_kept_whole():
    z, g = features(Factored(k=OUTPUTS), Full())
    inner, outer = Factored(k=OUTPUTS).matrices(layer())
    assert torch.equal(outer, torch.eye(OUTPUTS, dtype=torch.float64))
    expected = g.reshape(ROWS, OUTPUTS, INPUTS) @ inner
    assert torch.allclose(z, expected.flatten(1), rtol=1e-12)
    whole = features(Factored(k=INPUTS))[0]
    assert torch.allclose(whole, g, rtol=1e-12)


def layer(name="layer"):
    return Layer(
        name=name,
        inputs=INPUTS,
        outputs=OUTPUTS,
        dtype=torch.float64,
        device=torch.device("cpu"),
    )


def test_factored_features_are_the_gradient_of_a_zero_bottleneck():
    net = related()
    (z,) = features(Factored(k=4), net=net)
    inner, outer = Factored(k=4).matrices(layer())
    for row in range(ROWS):
        bottleneck = nn.Parameter(torch.zeros(4, 4, dtype=torch.float64))
        extra = net.a[row] @ inner @ bottleneck.T @ outer.T
        ((net.layer(net.a[row]) + extra) * net.g[row]).sum().backward()
        assert torch.allclose(z[row], bottleneck.grad.flatten(), rtol=1e-12)


def test_a_mask_is_a_sub_block_of_the_gradient():
    mask = Masked(inputs=5, outputs=6, size=None, seed=3)
    z, g = features(mask, Full())
    in_K, out_K = mask.coordinates(layer())
    assert len(set(in_K.tolist())) == 5
    block = g.reshape(ROWS, OUTPUTS, INPUTS)[:, out_K][:, :, in_K]
    assert torch.allclose(z, block.flatten(1), rtol=1e-12)
    small = Masked(inputs=5, outputs=6, size=8, seed=3)
    sketch = CountSketch.draw(30, 8, 3, "masked", "layer", "sketch", device=torch.device("cpu"))
    assert torch.allclose(features(small)[0], sketch(z), rtol=1e-12)


def test_tensorsketch_is_a_countsketch_of_the_flattened_gradient():
    kind = TensorSketch(size=32, seed=1)
    z, g = features(kind, Full())
    inner, outer = kind.sides(layer())
    expected = torch.zeros(ROWS, 32, dtype=torch.float64)
    g_ROI = g.reshape(ROWS, OUTPUTS, INPUTS)
    for o in range(OUTPUTS):
        for i in range(INPUTS):
            bucket = (int(outer.bucket_P[o]) + int(inner.bucket_P[i])) % 32
            expected[:, bucket] += g_ROI[:, o, i] * int(outer.sign_P[o]) * int(inner.sign_P[i])
    assert torch.allclose(z, expected, rtol=1e-10, atol=1e-12)


def test_countsketch_adds_every_coordinate_to_its_bucket_once():
    z, g = features(CountSketched(size=16, seed=2), Full())
    sketch = CountSketch.draw(
        INPUTS * OUTPUTS, 16, 2, "countsketch", "layer", device=torch.device("cpu")
    )
    matrix = torch.zeros(INPUTS * OUTPUTS, 16, dtype=torch.float64)
    matrix[torch.arange(INPUTS * OUTPUTS), sketch.bucket_P] = sketch.sign_P.double()
    assert torch.allclose(z, g @ matrix, rtol=1e-10, atol=1e-12)


def test_a_cap_sketches_the_features_of_all_layers_together():
    model, batch = llama(), padded_batch(dialogues())
    whole, capped = Factored(k=4), Capped(feature=Factored(k=4), size=64, seed=5)
    engine = gradient_engine(model, whole, capped)
    z, found = engine.run(*batch).features
    expected = torch.zeros(len(z), 64, dtype=torch.float64)
    for x, part in zip(engine.layers, torch.split(z, 16, dim=1), strict=True):
        cpu = torch.device("cpu")
        expected += CountSketch.draw(16, 64, 5, "capped", x.name, device=cpu)(part)
    assert found.shape == (4, 64)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-15)


def test_the_ordered_sum_of_other_devices_gives_the_same_sketch():
    here = CountSketch.draw(1_000, 37, "x", device=torch.device("cpu"))
    x = torch.randn(4, 3, 1_000, generator=torch.Generator().manual_seed(0))
    ordered = CountSketch(
        size=37,
        bucket_P=here.bucket_P,
        sign_P=here.sign_P,
        slots_DS=bucket_slots(here.bucket_P, 37),
    )
    assert ordered(x).shape == (4, 3, 37)
    assert torch.allclose(ordered(x), here(x), atol=1e-5)
    lonely = bucket_slots(torch.tensor([2, 0, 2]), 4)
    assert lonely.tolist() == [[1, 3], [3, 3], [0, 2], [3, 3]]


def test_dense_projection_is_a_product_with_signs():
    kind = DenseJL(size=8, seed=1)
    z, g = features(kind, Full())
    signs = kind.signs(layer(), 0, INPUTS * OUTPUTS).double()
    assert set(signs.unique().tolist()) == {-1, 1}
    assert torch.allclose(z, g @ signs, rtol=1e-12)


# k of the bound sigma^2 <= 2 |g|^2 |g'|^2 / k, and what the feature's inner product is divided by
KINDS = {
    "factored": (lambda seed: Factored(k=8, seed=seed), 64, 1),
    "countsketch": (lambda seed: CountSketched(size=64, seed=seed), 64, 1),
    "tensorsketch": (lambda seed: TensorSketch(size=64, seed=seed), 64, 1),
    "dense": (lambda seed: DenseJL(size=64, seed=seed), 64, 64),
}


@pytest.mark.parametrize("name", KINDS)
def test_inner_products_are_unbiased_over_seeds(name):
    make, k, scale = KINDS[name]
    net = related()
    (g,) = features(Full(), net=net)
    wanted = [make(seed) for seed in range(100)]
    found = torch.stack([z[0] @ z[1] for z in features(*wanted, net=net)]) / scale
    bound = (2 * g[0].square().sum() * g[1].square().sum() / k).sqrt()
    assert abs(found.mean() - g[0] @ g[1]) < 3 * bound / 10
    # tokens make G low-rank, which a two-sided projection pays for with a little more spread
    assert found.std() < (2 if name == "factored" else 1.3) * bound


def test_a_sketch_of_8192_keeps_cosines():
    net = related()
    (g,) = features(Full(), net=net)
    true = torch.cosine_similarity(g[0], g[1], dim=0)
    wanted = [CountSketched(size=8_192, seed=s) for s in range(40)]
    errors = [torch.cosine_similarity(*z, dim=0) - true for z in features(*wanted, net=net)]
    assert sum(abs(e) <= 0.022 for e in errors) >= 36  # two standard deviations: 95 %


@pytest.mark.parametrize(
    "kind",
    [
        Factored(k=4),
        Masked(inputs=8, outputs=8, size=32),
        TensorSketch(size=32),
        CountSketched(size=32),
        DenseJL(size=16),
    ],
)
def test_a_seed_fixes_the_matrix_for_every_batch_and_process(kind):
    model, rows = llama(torch.float32), dialogues((9, 14, 5))
    one = gradient_engine(model, kind).run(*padded_batch(rows)).features[0]
    two = gradient_engine(llama(torch.float32), kind).run(*padded_batch(rows)).features[0]
    assert torch.equal(one, two)
    *batch, segments = packed_batch(rows, width=16)
    split = gradient_engine(model, kind).run(*batch, segment_ids_BT=segments).features[0]
    assert torch.allclose(split, one, atol=1e-5 * float(one.abs().max()))


def test_layers_stand_side_by_side_or_share_their_buckets():
    model = llama()
    engine = gradient_engine(
        model, Factored(k=4), Masked(inputs=8, outputs=8), TensorSketch(size=32), DenseJL(size=16)
    )
    assert engine.widths == (14 * 16, 4_096, 14 * 32, 16)
    found = engine.run(*padded_batch(dialogues())).features
    assert tuple(f.shape[1] for f in found) == engine.widths


def test_shared_products_of_layers_with_one_input_change_nothing():
    model, batch = llama(), padded_batch(dialogues())
    engine = gradient_engine(model, Factored(k=4))
    groups = list(engine.reading.siblings.values())
    assert [len(g) for g in groups] == [3, 2, 3, 2]  # q k v; gate up; twice
    assert [n.split(".")[-1] for n in groups[0]] == ["q_proj", "k_proj", "v_proj"]
    joined = engine.run(*batch).features[0]
    alone = [
        gradient_engine(model, Factored(k=4), layers=(x.name,)).run(*batch).features[0]
        for x in engine.layers
    ]
    assert torch.allclose(joined, torch.cat(alone, dim=1), rtol=1e-9, atol=1e-15)


def test_explicit_gradients_are_formed_a_few_rows_at_a_time(monkeypatch):
    (plain,) = features(CountSketched(size=16))
    monkeypatch.setattr(layout_module, "NUMBERS_AT_ONCE", 1)
    assert torch.equal(features(CountSketched(size=16))[0], plain)


def test_sizes_must_be_positive():
    for kind in (Factored(k=0), CountSketched(size=0), TensorSketch(size=0), DenseJL(size=-1)):
        with pytest.raises(ValueError, match="must be at least 1"):
            kind(layer())
    with pytest.raises(ValueError, match="inputs=0"):
        Masked(inputs=0)(layer())


def test_signs_are_balanced():
    signs = random_signs(100_000, 0, "balance")
    assert abs(int(signs.astype(np.int64).sum())) < 5 * 100_000**0.5


@pytest.mark.parametrize(("k", "spread"), [(8, 0.028), (16, 0.014)])
def test_a_projected_cosine_spreads_like_a_dense_projection_of_that_size(k, spread):
    """20 layers of 128 x 128, 32 tokens, true cosine .36: 1 / sqrt(layers k^2)."""
    draw = torch.Generator().manual_seed(1)

    def related(size):
        """Two rows of tokens with a correlation of .6: so have their gradients, squared."""
        common, one, other = (torch.randn(32, size, generator=draw).double() for _ in range(3))
        return torch.stack([0.6**0.5 * common + 0.4**0.5 * own for own in (one, other)])

    layers = nn.ModuleList(nn.Linear(128, 128, bias=False) for _ in range(20)).double()
    a, g = ([related(128) for _ in layers] for _ in range(2))

    def loss():
        return sum((x(a_) * g_).sum() for x, a_, g_ in zip(layers, a, g, strict=True))

    kinds = [Factored(k=k, seed=seed) for seed in range(40)]
    full, *found = row_gradients(layers, loss, Layout(shape=(2, 32), rows=2), Full(), *kinds)
    true = float(torch.cosine_similarity(full[0], full[1], dim=0))
    assert true == pytest.approx(0.36, abs=0.02)
    errors = [float(torch.cosine_similarity(*z, dim=0)) - true for z in found]
    # a deviation of 40 draws is known to 11 %
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(spread, rel=0.35)


def test_half_precision_loses_tiny_gradients_and_scaled_storage_does_not():
    tiny = np.array([2e-8, 6e-8])
    assert tiny.astype(np.float16).astype(float) == pytest.approx([0, 5.96e-8], abs=1e-10)
    rows = np.stack([tiny, tiny[::-1]])
    assert from_half(*to_half(rows)) == pytest.approx(rows, rel=1e-3)
