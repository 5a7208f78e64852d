"""A model is called under its adapter, and with its cache under the name that it takes."""

import pytest
import torch
from tolerances import LOG_PROB
from torch import nn
from transformers import AutoModelForCausalLM, DynamicCache

from gristmill.pipeline.models.calling import bare, cached
from gristmill.pipeline.models.forward import backbone


class Old(nn.Module):
    """As in transformers 5.23, and as long as a family has not been renamed."""

    def forward(self, input_ids, past_key_values=None, use_cache=None):
        past_key_values.append(input_ids)
        return use_cache


class New(nn.Module):
    """As in transformers 5.24."""

    def forward(self, input_ids, cache=None, use_cache=None):
        cache.append(input_ids)
        return use_cache


@pytest.mark.parametrize("family", [Old, New])
def test_the_signature_says_which_name_a_model_takes(family):
    model, cache = family(), []
    assert model("ids", **cached(model, cache))
    assert cache == ["ids"]


@pytest.mark.parametrize("adapter", [False, True])
def test_a_model_extends_the_cache_without_a_warning(tiny, adapter):
    from peft import LoraConfig, get_peft_model

    model = AutoModelForCausalLM.from_pretrained(tiny).eval()
    if adapter:
        inside = model
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).eval()
        assert bare(model) is bare(inside) is inside  # which PEFT has marked as well
        assert backbone(inside) is backbone(model)
    ids_1T = torch.tensor([[5, 6, 7, 8]])
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        whole_1TV = model(input_ids=ids_1T, use_cache=False).logits
        model(input_ids=ids_1T[:, :3], **cached(model, cache))
        assert cache.get_seq_length() == 3
        last_11V = model(input_ids=ids_1T[:, 3:], **cached(model, cache)).logits
    torch.testing.assert_close(last_11V[0, 0], whole_1TV[0, 3], rtol=0, atol=LOG_PROB)
