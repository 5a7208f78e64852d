"""The derived tolerances hold for what they are derived for, and are not much wider than it."""

import numpy as np
import torch
from tolerances import CONTEXT, HEAD, HIDDEN, INNER, LAYERS, LOG_PROB, VOCABULARY, rounding, worst
from transformers import AutoModelForCausalLM


def one_by_one(x):
    return np.add.accumulate(x, dtype=np.float32)[-1]


def test_equal_terms_round_to_one_side_and_stay_within_the_worst():
    x = np.full(768, 1 / 768, dtype=np.float32)
    error = abs(float(one_by_one(x)) - x.astype(np.float64).sum())
    assert worst(768) / 100 < error < worst(768)


def test_terms_of_all_kinds_walk_at_random():
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((200, 4_096)).astype(np.float32)
    errors = [float(one_by_one(x)) - x.astype(np.float64).sum() for x in rows]
    largest = np.abs(np.cumsum(rows, axis=1)).max()
    assert rounding(4_096, largest) / 20 < np.std(errors) < rounding(4_096, largest)


def test_log_probabilities_of_the_tiny_model_keep_a_tenth_of_theirs(tiny):
    model = AutoModelForCausalLM.from_pretrained(tiny).eval()
    config = model.config
    assert (config.hidden_size, config.intermediate_size) == (HIDDEN, INNER)
    assert (config.num_hidden_layers, config.head_dim) == (LAYERS, HEAD)
    assert (config.max_position_embeddings, config.vocab_size) == (CONTEXT, VOCABULARY)
    ids = torch.randint(5, 200, (2, CONTEXT), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = model(input_ids=ids, use_cache=False).logits.double().log_softmax(-1)
        exact = model.double()(input_ids=ids, use_cache=False).logits.log_softmax(-1)
    assert LOG_PROB / 1_000 < float((found - exact).abs().max()) < LOG_PROB / 10
