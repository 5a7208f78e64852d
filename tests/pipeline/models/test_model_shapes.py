"""Families of language models, small and random: what each method reads of each, or why it cannot.

One pool and one target set for all; a shape's models and observations are shared by its methods.
"""

import functools
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gradient_toys import dialogues, packed_batch, padded_batch, relative, token_losses
from rows import chat_rows, write_jsonl

from gristmill.pipeline.contracts import asked_roles
from gristmill.pipeline.finetune.adapters import adapter_layers, stands_on
from gristmill.pipeline.finetune.models import peft_config
from gristmill.pipeline.finetune.settings import Lora
from gristmill.pipeline.ingest.ingest import Source, ingest
from gristmill.pipeline.models.context import RunContext
from gristmill.pipeline.models.gradients.engine import gradient_engine
from gristmill.pipeline.models.gradients.inner_products import Capture, GhostDot, GhostNorm
from gristmill.pipeline.models.gradients.kfac import fit_kronecker
from gristmill.pipeline.models.gradients.projections import Full
from gristmill.pipeline.models.gradients.share_read import share_read
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.models.roles import Models
from gristmill.pipeline.models.tiny import byte_tokenizer
from gristmill.pipeline.records.store import Store
from gristmill.pipeline.score.score import ScoreRun, score
from gristmill.selectors import catalog

CONTEXT = 256
LINEAR = {"Linear", "Conv1D", "FalconLinear"}
COMMON = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
}
GROUPED = {**COMMON, "num_key_value_heads": 2}
ROUTED = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SHAPES = {
    "llama": ("Llama", GROUPED),
    "qwen3": ("Qwen3", {**GROUPED, "head_dim": 8}),
    "gemma3": ("Gemma3Text", {**GROUPED, "head_dim": 8, "sliding_window": 64}),
    "phi3": ("Phi3", GROUPED),
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT}),
    "neox": ("GPTNeoX", COMMON),
    "falcon": ("Falcon", {k: v for k, v in COMMON.items() if k != "max_position_embeddings"}),
    "mixtral": ("Mixtral", {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_moe": ("Qwen3Moe", {**GROUPED, **ROUTED, "head_dim": 8}),
}

# shapes on which layers see tokens in another form: flattened, or by experts of another layout
FURTHER = {
    "opt": ("OPT", {**COMMON, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "qwen2_moe": ("Qwen2Moe", {**GROUPED, **ROUTED, "shared_expert_intermediate_size": 16}),
    "gpt_oss": (
        "GptOss",
        {**GROUPED, "head_dim": 8, "num_local_experts": 4, "sliding_window": 64},
    ),
    "deepseek": (
        "DeepseekV3",
        {
            **COMMON,
            **{k: v for k, v in ROUTED.items() if k != "num_experts"},
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "q_lora_rank": 8,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
        },
    ),
}


def config(shape):
    import transformers

    name, settings = (SHAPES | FURTHER)[shape]
    tokenizer = byte_tokenizer(CONTEXT)
    return getattr(transformers, f"{name}Config")(
        vocab_size=len(tokenizer),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **settings,
    )


def model(shape):
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config(shape)).eval()


QKVO = "k_proj o_proj q_proj v_proj"
ATTENTION = {
    "llama": QKVO,
    "qwen3": QKVO,
    "gemma3": QKVO,
    "phi3": "o_proj qkv_proj",
    "gpt2": "attn.c_proj c_attn",
    "neox": "dense query_key_value",
    "falcon": "dense query_key_value",
    "mixtral": QKVO,
    "qwen3_moe": QKVO,
}


def adapted(shape, targets):
    """The layers of a fresh adapter, by name in the plain model; a warning of PEFT's would fail."""
    from peft import get_peft_model

    plain = model(shape)
    files = SimpleNamespace(layout="causal")
    peft = get_peft_model(
        plain, peft_config(plain, files, Lora(rank=2, targets=targets), "CAUSAL_LM")
    )
    names = {n for n, m in peft.base_model.model.named_modules() if hasattr(m, "lora_A")}
    assert f"on {len(names)} layers" in stands_on(peft)
    return names


@pytest.mark.parametrize("shape", SHAPES)
def test_an_adapter_covers_attention_whatever_the_family_calls_it(shape):
    assert " ".join(adapter_layers(model(shape), ("attention",))) == ATTENTION[shape]
    found = adapted(shape, ("attention",))
    assert len(found) == 2 * len(ATTENTION[shape].split()), "all of two blocks"
    assert all("attn" in name or "attention" in name for name in found)
    linear = {n for n, m in model(shape).named_modules() if type(m).__name__ in LINEAR}
    every = linear - {"lm_head"}
    assert found == {n for n in every if "attn" in n or "attention" in n}
    assert adapted(shape, ("all-linear",)) == every


def test_an_adapters_targets_may_be_named_and_must_be_there():
    found = adapted("phi3", ("qkv_proj", "0.mlp.down_proj"))
    assert {n.removeprefix("model.layers.") for n in found} == {
        "0.self_attn.qkv_proj",
        "1.self_attn.qkv_proj",
        "0.mlp.down_proj",
    }
    with pytest.raises(ValueError, match="q_proj, v_proj, which matches no linear layer of Phi3"):
        adapter_layers(model("phi3"), ("q_proj", "qkv_proj", "v_proj"))
    with pytest.raises(ValueError, match="nothing, which matches no linear layer"):
        adapter_layers(model("phi3"), ())


def test_the_share_of_weights_that_an_adapter_stands_on():
    from peft import get_peft_model

    plain = model("llama")
    whole = sum(p.numel() for p in plain.parameters())
    attention = sum(p.numel() for n, p in plain.named_parameters() if "self_attn" in n)
    config = peft_config(plain, SimpleNamespace(layout="causal"), Lora(rank=2), "CAUSAL_LM")
    assert stands_on(get_peft_model(plain, config)) == (
        "adapter of rank 2 on 8 layers (k_proj, o_proj, q_proj, v_proj), which hold "
        f"{attention / whole:.0%} of the model's weights."
    )


# one warm-up for the three that read an adapter
WARM_UP = {"epochs": 2, "rank": 4, "alpha": 8.0, "batch_size": 8}
SETTINGS = {
    "gradient_cosine": {"size": 64},
    "tracin": {"size": 64, "warm_up": WARM_UP},
    "less": {"size": 64, "warm_up": WARM_UP},
    "datainf": {"k": 4, "warm_up": WARM_UP},
    "spice": {"size": 64, "role": "target", "picks": 4},
    "ekfac": {"k": 4},
    "donod": {},
    "paser": {"every": 2, "picks": 4},
}
IPROX = {"size": 64, "warm_up": WARM_UP, "rank_multiple": 4, "alignment": {"epochs": 1}}
ROUTERS = {"mixtral": "mlp.gate", "qwen3_moe": "mlp.gate"}


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    store = Store(root=root / "store")
    store.root.mkdir()
    pool = write_jsonl(root / "pool.jsonl", chat_rows(12))
    targets = write_jsonl(root / "targets.jsonl", chat_rows(3, start=50))

    @functools.cache
    def folder(shape):
        path = root / shape
        model(shape).save_pretrained(path)
        byte_tokenizer(CONTEXT).save_pretrained(path)
        return path

    read = [ingest(store, [Source(path=str(p))]) for p in (pool, targets)]
    return store, folder, *read


def scored(shapes, shape, method, settings, tiny):
    """The scores' entry of one method."""
    store, folder, pool, targets = shapes
    scorer = catalog.make(method, settings)
    roles = {r: (str(folder(shape)),) for r in asked_roles(scorer)}
    if "embedder" in roles:
        roles["embedder"] = (str(tiny),)
    return score(
        ScoreRun(
            scorer=scorer,
            dataset=pool,
            reference=None if scorer.reference == "none" else targets,
            context=RunContext(
                models=Models(store=store, roles=roles),
                passes=Passes(device="cpu", max_length=96),
            ),
        )
    )


def some(*quick):
    """All shapes, and those that are not named here among the slow tests."""
    return [s if s in quick else pytest.param(s, marks=pytest.mark.slow) for s in SHAPES]


# rotary and learnt positions, fused and transposed layers, experts; the others are like these
@pytest.mark.parametrize("shape", some("llama", "gpt2", "neox", "gemma3", "mixtral"))
def test_every_influence_method_scores_and_notes_what_it_read(shape, shapes, tiny):
    for method, settings in SETTINGS.items():
        entry = scored(shapes, shape, method, settings, tiny)
        frame, read = entry.frame(), entry.note["read"]
        assert frame["score"].is_not_null().any(), (method, frame["reason"].to_list())
        assert frame["score"].n_unique() > 2, method
        if method in ("tracin", "less", "datainf"):
            assert read == ["gradients are read of 100.0% of the adapter's weights."]
            named = f"({', '.join(ATTENTION[shape].split())})"
            assert sum(named in sentence for sentence in entry.note["prepared"]) == 1
        elif method == "donod":
            assert re.fullmatch(
                r"gradients are read of the output layer alone, \d+.\d% of the weights\.", *read
            )
        elif method == "paser":
            assert read == [], "no gradient is read"
        elif shape in ROUTERS:
            (told,) = read
            assert told.endswith(f"; not of {ROUTERS[shape]}.")
            assert float(re.search(r"([\d.]+)% of the weights outside", told)[1]) > 95
        else:
            assert read == [
                "gradients are read of 100.0% of the weights outside embeddings and head."
            ]


@pytest.mark.parametrize("shape", some("gpt2", "mixtral"))
def test_a_low_rank_proxy_is_made_of_every_shape(shape, shapes, tiny):
    entry = scored(shapes, shape, "iprox", IPROX, tiny)
    assert entry.frame()["score"].n_unique() > 2
    assert any("weights in linear layers" in sentence for sentence in entry.note["prepared"])
    (told,) = entry.note["read"]
    assert told.startswith("gradients are read of ")


def test_the_share_of_weights_that_named_layers_are(shapes, store):
    _, folder, *_ = shapes
    files = resolve(str(folder("llama")), store)
    counts = {n: p.numel() for n, p in model("llama").named_parameters() if p.ndim > 1}
    del counts["model.embed_tokens.weight"], counts["lm_head.weight"]
    queries = sum(n for name, n in counts.items() if "q_proj" in name)
    assert share_read(files, ["q_proj"]) == (
        f"gradients are read of {queries / sum(counts.values()):.1%} of the weights outside "
        "embeddings and head; not of mlp.down_proj, mlp.gate_proj, mlp.up_proj, self_attn.k_proj "
        "and 2 more."
    )


def own_gradients(plain, layers, rows):
    """The gradient of each row's mean loss by a backward pass of the model's own, B x P."""
    out = []
    for layer in layers:
        owner = layer.modules[0] if layer.expert is None else layer.expert.module
        owner.requires_grad_(True)
    for ids, labels in rows:
        plain.zero_grad()
        token_losses(plain, ids, labels).mean().backward()
        parts = []
        for layer in layers:
            if layer.expert is None:
                part = layer.modules[0].weight.grad
            else:
                part = getattr(layer.expert.module, layer.expert.part).grad[layer.expert.number]
            parts.append((part.T if layer.transposed else part).flatten())
        out.append(torch.cat(parts))
    return torch.stack(out)


@pytest.mark.parametrize("shape", [*SHAPES, *FURTHER])
def test_gradients_are_the_models_own_experts_included(shape):
    plain, rows = model(shape), dialogues((9, 14, 5, 11), low=3)
    engine = gradient_engine(plain, Full(), GhostNorm())
    experts = [layer for layer in engine.layers if layer.expert is not None]
    assert bool(experts) == ("moe" in shape or shape in ("mixtral", "gpt_oss", "deepseek"))
    found, norm2 = engine.run(*padded_batch(rows)).features
    expected = own_gradients(plain, engine.layers, rows)
    assert relative(found, expected) < 1e-4
    assert relative(norm2, expected.square().sum(1, keepdim=True)) < 1e-3
    left = engine.run(*padded_batch(rows[::-1], side="left")).features[0]
    assert relative(left.flip(0), expected) < 1e-4
    if engine.packs:
        *batch, segments = packed_batch(rows, width=24)
        packed = engine.run(*batch, segment_ids_BT=segments).features[0]
        assert relative(packed, expected) < 1e-4


def test_inner_products_with_captured_rows_count_experts_that_some_rows_never_asked():
    plain, rows = model("mixtral"), dialogues((9, 2, 5, 3), low=3)
    full = gradient_engine(plain, Full())
    pool = full.run(*padded_batch(rows)).features[0]
    captured = Capture()
    holding = gradient_engine(plain, captured)
    for row in rows[1:3]:  # one at a time: two tokens ask at most four of eight experts
        holding.run(*padded_batch([row]))
    experts = [x.name for x in full.layers if x.expert is not None]
    assert any(len(captured.held.get(name, ())) == 1 for name in experts)
    dots = gradient_engine(plain, GhostDot(captured=captured)).run(*padded_batch(rows)).features[0]
    assert relative(dots, pool @ pool[1:3].T) < 1e-4


def test_the_curvature_of_an_expert_that_no_probe_asked_counts_for_nothing():
    plain, rows = model("mixtral"), dialogues((9, 14, 5, 11), low=3)
    with torch.no_grad():  # the router knows no difference, and sends all to the same two of four
        plain.model.layers[0].mlp.gate.weight.zero_()
    engine = gradient_engine(plain, Full())
    features = engine.run(*padded_batch(rows)).features[0].double().numpy()

    def run(feature):
        engine = gradient_engine(plain, feature)
        return sum(r is None for r in engine.run(*padded_batch(rows)).reason_R)

    fitted = fit_kronecker(run)
    silent = [n for n, values in fitted.spectrum.items() if not np.isfinite(values).any()]
    assert len(silent) == 4
    assert {n.rpartition(".")[0] for n in silent} == {
        "model.layers.0.mlp.experts.gate_up_proj",
        "model.layers.0.mlp.experts.down_proj",
    }
    asked = fitted.solve_rows(np.ones_like(features))
    assert np.isfinite(asked).all()
    assert (asked == 0).mean() == pytest.approx((features == 0).all(0).mean(), abs=1e-3)
