"""Template leak: chat templates and unfilled prompts in the text."""

from dataclasses import dataclass

import polars as pl

from gristmill.pipeline.records.text import Part, texts


@dataclass(frozen=True, kw_only=True)
class TemplateLeak:
    """Drops records that show a chat template or an unfilled prompt: `template_leak: <what>`."""

    part: Part = "all"

    def reasons(self, records: pl.DataFrame) -> pl.Series:
        return _first_match(texts(records, self.part), "template_leak: ", _LEAKS)


def _first_match(text: pl.Series, prefix: str, patterns: dict[str, str]) -> pl.Series:
    why = pl.lit(None, pl.String)
    for name, pattern in reversed(patterns.items()):
        why = pl.when(text.str.contains(pattern)).then(pl.lit(prefix + name)).otherwise(why)
    return pl.select(why).to_series() if len(text) else pl.Series([], dtype=pl.String)


_LEAKS = {
    "chatml": r"<\|(?:im_start|im_end|endoftext|eot_id|start_header_id|begin_of_text)\|>",
    "roles": r"<\|(?:user|assistant|system|end)\|>|<(?:start|end)_of_turn>",
    "llama": r"\[/?INST\]|<</?SYS>>",
    "alpaca": r"(?m)^### ?(?:Instruction|Response):?\s*$|Below is an instruction that describes",
    "turns": r"(?m)^(?:Human|User): .*\n+(?:Assistant|AI):",
    "placeholder": r"\{\{? ?(?:instruction|question|prompt|response|answer)s? ?\}?\}"
    r"|\[(?:INSERT|PLACEHOLDER)[^\]]*\]",
    "filler": r"(?i)lorem ipsum dolor",
}
