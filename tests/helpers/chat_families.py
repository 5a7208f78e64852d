"""Small tokenizers in the shapes of published families: how turns begin and end, and what is named.

Each has the structure of its family's template and the family's way of declaring special tokens:
some have a name ("eos_token"), the others are special in tokenizer.json alone.
"""

from dataclasses import dataclass
from typing import Any

from gristmill.pipeline.models.chat_tokenizer import ChatTokenizer

HEADER = "{% if add_generation_prompt %}"


@dataclass(frozen=True, kw_only=True)
class Family:
    """What a family's tokenizer is made of.

    Attributes:
        template: its chat template.
        special: its special tokens.
        named: those of them that have a name, by name.
        end: what ends a turn of the assistant.
        pieces: text is split as SentencePiece does, not into bytes.
        added: further added tokens, which are not special.
    """

    template: str
    special: tuple[str, ...]
    named: dict[str, str]
    end: str
    pieces: bool = False
    added: tuple[str, ...] = ()

    def chat(self, limit: int = 1_000) -> ChatTokenizer:
        tokenizer = _tokenizer(self)
        return ChatTokenizer(tokenizer=tokenizer, template=self.template, limit=limit)


def _tokenizer(family: Family) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if family.pieces:
        letters = [*"▁ \nabcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,?!<>|/_[]"]
        words = ["▁the", "▁t", "th", "he", "the"]
        vocabulary = dict.fromkeys(
            [*family.special, *(f"<0x{b:02X}>" for b in range(256)), *letters, *words]
        )
        merges = [("▁", "t"), ("t", "h"), ("h", "e"), ("th", "e"), ("▁t", "he")]
        core = Tokenizer(
            models.BPE(
                vocab={piece: i for i, piece in enumerate(vocabulary)},
                merges=merges,
                byte_fallback=True,
            )
        )
        core.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        core.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
    else:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = dict.fromkeys([*alphabet, "th", "the", "Ġthe"])
        merges = [("t", "h"), ("th", "e"), ("Ġ", "the")]
        core = Tokenizer(
            models.BPE(vocab={piece: i for i, piece in enumerate(vocabulary)}, merges=merges)
        )
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in family.special])
    core.add_tokens([AddedToken(t, special=False, normalized=False) for t in family.added])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, clean_up_tokenization_spaces=False, **family.named
    )


LLAMA_3 = Family(
    template=(
        "{{ bos_token }}{% for m in messages %}"
        "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim }}<|eot_id|>"
        "{% endfor %}"
        + HEADER
        + "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    special=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    named={"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    end="<|eot_id|>",
)
QWEN_3 = Family(
    template=(
        "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n"
        "{% if loop.last %}{{ '<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' }}{% endif %}"
        "{{ m.content }}{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content }}{% endif %}"
        "{{ '<|im_end|>\n' }}{% endfor %}" + HEADER + "{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    named={"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    end="<|im_end|>",
    added=("<think>", "</think>"),
)
GEMMA_3 = Family(
    template=(
        "{{ bos_token }}{% for m in messages %}"
        "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
        "{{ m.content | trim + '<end_of_turn>\n' }}"
        "{% endfor %}" + HEADER + "{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    special=("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
    named={"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
    end="<end_of_turn>",
    pieces=True,
)
PHI_3 = Family(
    template=(
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
        + HEADER
        + "{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
    ),
    special=("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    named={"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
    end="<|end|>",
    pieces=True,
)
MISTRAL = Family(
    template=(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}"
        "{{ ' ' + m.content + eos_token }}{% else %}{{ '[INST] ' + m.content + '[/INST]' }}{% endif %}"
        "{% endfor %}"
    ),
    special=("<unk>", "<s>", "</s>", "[INST]", "[/INST]"),
    named={"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    end="</s>",
    pieces=True,
)
OLMO_2 = Family(
    template=(
        "{{ bos_token }}{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}"
        "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
        "{% if not (m.role == 'assistant' and loop.last) %}{{ '\n' }}{% endif %}"
        "{% endfor %}" + HEADER + "{{ '<|assistant|>\n' }}{% endif %}"
    ),
    special=("<|endoftext|>", "<|pad|>"),
    named={"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|pad|>"},
    end="<|endoftext|>",
)
FAMILIES = {
    "llama-3": LLAMA_3,
    "qwen-3": QWEN_3,
    "gemma-3": GEMMA_3,
    "phi-3": PHI_3,
    "mistral": MISTRAL,
    "olmo-2": OLMO_2,
}
