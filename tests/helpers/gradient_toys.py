"""Small nets and plain loops of backward passes: what the gradient engine is compared with."""

# B = rows, T = tokens, I, O = layer inputs, outputs

import random

import torch
from torch import Tensor, nn

VOCABULARY = 97
# float32 sums in another order; float64 likewise
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def llama(dtype=torch.float64, seed=0, layers=2):
    """A random Llama whose norms compute in its own dtype (transformers' own round to float32)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=48,
        tie_word_embeddings=True,
        attention_dropout=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        for block in model.model.layers:
            block.input_layernorm = nn.RMSNorm(32, eps=1e-6)
            block.post_attention_layernorm = nn.RMSNorm(32, eps=1e-6)
        model.model.norm = nn.RMSNorm(32, eps=1e-6)
    return model.to(dtype).eval()


def gpt2(dtype=torch.float64):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=48, n_embd=32, n_layer=2, n_head=4, bos_token_id=None,
        eos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GPT2LMHeadModel(config).to(dtype).eval()


def dialogues(lengths=(9, 14, 5, 11), seed=0, low=1):
    """Token ids and labels of rows; the first third of each carries no loss."""
    draw = random.Random(seed)
    rows = [[draw.randrange(low, VOCABULARY) for _ in range(n)] for n in lengths]
    return [(ids, [-100] * (len(ids) // 3) + ids[len(ids) // 3 :]) for ids in rows]


def padded_batch(rows, side="right", pad=0):
    """input_ids, attention_mask, labels."""
    width = max(len(ids) for ids, _ in rows)
    out = ([], [], [])
    for ids, labels in rows:
        gap = width - len(ids)
        parts = ([pad] * gap, ids), ([0] * gap, [1] * len(ids)), ([-100] * gap, labels)
        for column, (blank, real) in zip(out, parts, strict=True):
            column.append(real + blank if side == "right" else blank + real)
    return tuple(torch.tensor(x) for x in out)


def packed_batch(rows, width, pad=0):
    """input_ids, attention_mask, labels, segment_ids: rows in order, as many a line as fit."""
    lines = [[]]
    for segment, (ids, labels) in enumerate(rows):
        if len(lines[-1]) + len(ids) > width:
            lines.append([])
        lines[-1] += [(i, 1, y, segment) for i, y in zip(ids, labels, strict=True)]
    full = [line + [(pad, 0, -100, -1)] * (width - len(line)) for line in lines]
    return tuple(torch.tensor([[t[i] for t in line] for line in full]) for i in range(4))


def token_losses(model, ids, labels):
    """Loss of every labelled token of one row, through the model's own logits."""
    logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
    return nn.functional.cross_entropy(logits, torch.tensor(labels[1:]), reduction="none")[
        torch.tensor(labels[1:]) != -100
    ]


def weight_gradients(loss: Tensor, layers) -> list[Tensor]:
    """Gradient of each layer by plain autograd, O x I, with the bias as last column."""
    parameters = [layer.modules[0].weight for layer in layers]
    biases = [layer.modules[0].bias for layer in layers if layer.bias]
    for parameter in parameters + biases:
        parameter.requires_grad_(True)
    grads = torch.autograd.grad(loss, parameters + biases)
    weights, bias = list(grads[: len(parameters)]), iter(grads[len(parameters) :])
    out = []
    for layer, weight in zip(layers, weights, strict=True):
        g = weight.T if layer.transposed else weight
        out.append(torch.cat([g, next(bias)[:, None]], dim=1) if layer.bias else g)
    return out


def loop(model, layers, rows, reduction="mean"):
    """The features of `Full` by one backward pass per row, B x P."""
    out = []
    for layer in layers:
        layer.modules[0].weight.requires_grad_(True)
    for ids, labels in rows:
        loss = token_losses(model, ids, labels)
        loss = loss.mean() if reduction == "mean" else loss.sum()
        out.append(torch.cat([g.flatten() for g in weight_gradients(loss, layers)]))
    return torch.stack(out)


def relative(x: Tensor, y: Tensor) -> float:
    """Largest error of a row, relative to the row's norm."""
    return float(((x - y).flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1)).max())


class Given(nn.Module):
    """One layer whose output gradients are what we say: loss = sum(output * g)."""

    def __init__(self, a_BTI, g_BTO):
        super().__init__()
        self.layer = nn.Linear(a_BTI.shape[-1], g_BTO.shape[-1], bias=False).to(a_BTI.dtype)
        self.a, self.g = a_BTI, g_BTO

    def loss(self):
        return (self.layer(self.a) * self.g).sum()
