"""README.md of a trained model: YAML that the hub takes, and what a reader must know to use it."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from gristmill.pipeline.report.markdown import cell, plain, table
from gristmill.pipeline.road.model_manifest import interval

Told = Mapping[str, Any]
_HUB = re.compile(r"[\w.-]+/[\w.-]+(@.+)?")
_STAGES = {
    "sft": "supervised fine-tuning",
    "dpo": "preference optimisation",
    "reward": "reward modelling",
    "ftpo": "final-token preference optimisation",
}


def card(told: Told) -> str:
    """The whole card.

    Args:
        told: the model's manifest.
    """
    header = yaml.safe_dump(_header(told), sort_keys=False, allow_unicode=True, width=1000)
    sections = [
        f"# {cell(told['name'])}",
        _lead(told),
        "## Trained on\n\n" + _trained_on(told),
        "## Settings\n\n" + _settings(told),
        "## How training went\n\n" + _training(told),
        "## Held-out rows\n\n" + _held_out(told),
        "## Loading\n\n" + _loading(told),
        "## Limits\n\n" + _limits(told),
    ]
    return f"---\n{header}---\n\n" + "\n\n".join(s.strip() for s in sections) + "\n"


def _header(told: Told) -> dict[str, Any]:
    header: dict[str, Any] = {
        "library_name": "peft" if told["adapter"] else "transformers",
        "pipeline_tag": "text-classification" if told["stage"] == "reward" else "text-generation",
    }
    base = str(told["base"]["reference"])
    if _on_hub(base):
        header["base_model"] = base.partition("@")[0]
        header["base_model_relation"] = "adapter" if told["adapter"] else "finetune"
    header["datasets"] = [told["dataset"]["name"]]
    lora = ["lora"] if told["adapter"] else []
    header["tags"] = [told["stage"], *lora, "trl", "data-selection", "gristmill"]
    return header


def _on_hub(reference: str) -> bool:
    return _HUB.fullmatch(reference) is not None and not reference.startswith(".")


def _lead(told: Told) -> str:
    what = "A low-rank adapter for" if told["adapter"] else "All weights of"
    data, rows = told["dataset"], told["rows"]
    return (
        f"{what} {cell(told['base']['reference'])}, trained by {_STAGES[told['stage']]} on "
        f"{rows['trained']:,} rows of the dataset {cell(data['name'])}, version "
        f"`{data['version']}`."
    )


def _trained_on(told: Told) -> str:
    data, rows, base = told["dataset"], told["rows"], told["base"]
    unit = "pairs" if data["kind"] == "pair" else "rows"
    unit = "places of final tokens" if told["stage"] == "ftpo" else unit
    left = ", ".join(f"{cell(reason)} {n:,}" for reason, n in rows["left_out"].items())
    share = rows["tokens_with_loss"] / max(1, rows["tokens"])
    lines = [
        ("dataset", f"{data['name']} {data['version']}"),
        ("its key", data["key"]),
        ("sha256 of its manifest", data["manifest_sha256"]),
        (f"{unit} in its train split", f"{rows['given']:,}"),
        (f"{unit} trained on", f"{rows['trained']:,}"),
        ("left out", left or "none"),
        (
            "cut at the beginning" if told["stage"] == "ftpo" else "cut at the end",
            f"{rows['cut']:,}",
        ),
        ("tokens", f"{rows['tokens']:,}"),
        ("tokens that carry loss", f"{rows['tokens_with_loss']:,} ({share:.1%})"),
        ("weights", _weights(told)),
        ("model it starts from", base["reference"]),
        ("its weights, hash", base["model_sha"]),
        ("its tokenizer and template, hashes", _tokenizer(base)),
    ]
    if told["reference_model"]:
        rival = told["reference_model"]
        lines.append(("reference model", f"{rival['reference']} ({rival['model_sha']})"))
    return table(("", ""), lines)


def _tokenizer(base: Told) -> str:
    return f"{base['tokenizer_sha']}, {base['chat_template_sha'] or 'no template of its own'}"


def _weights(told: Told) -> str:
    weights = told["weights"]
    if weights is None:
        return "1 each"
    return (
        "{least:.3g} to {most:.3g}, mean {mean:.3g}; {zero:,} of weight 0; worth "
        "{worth_rows:,.1f} rows of equal weight".format(**weights)
    )


def _settings(told: Told) -> str:
    given = dict(told["settings"])
    training, lora = given.pop("training"), given.pop("lora")
    given.pop("class")
    lines = [(name, plain(value)) for name, value in given.items()]
    lines += [(name, plain(value)) for name, value in training.items() if name != "class"]
    adapted = {k: v for k, v in lora.items() if k != "class"} if lora else {}
    lines += [(f"adapter, {name}", plain(value)) for name, value in adapted.items()]
    if not adapted:
        lines.append(("adapter", "none: all weights were trained"))
    versions = ", ".join(f"{name} {version}" for name, version in told["packages"].items())
    return table(("setting", "value"), lines) + f"\nMade with {versions}."


def _training(told: Told) -> str:
    training = told["training"]
    lines = [
        ("steps", f"{training['steps']:,}"),
        ("loss, first step", f"{training['loss_first']:.4f}"),
        ("loss, last step", f"{training['loss_last']:.4f}"),
        *_tenths(training),
        ("peak learning rate", f"{training['peak_learning_rate']:g}"),
        ("largest gradient norm", f"{training['largest_gradient_norm']:.3g}"),
    ]
    notes = "".join(f"- {cell(sentence)}\n" for sentence in told["notes"])
    return (
        "![loss by step](loss.svg)\n\n"
        + table(("", ""), lines)
        + "\nThe loss is that of the rows of a step before its update, without their weights; "
        "`metrics.parquet` has every step.\n\n" + notes
    )


def _tenths(training: Told) -> list[tuple[str, str]]:
    """Means, where there are enough steps for a tenth of them to be more than one."""
    if training["steps"] < 20:
        return []
    return [
        (f"mean loss, {end} tenth of the steps", f"{training[f'loss_{end}_tenth']:.4f}")
        for end in ("first", "last")
    ]


def _held_out(told: Told) -> str:
    found = told["held_out"]
    if not found["rows"]:
        return (
            "The dataset has no validation split, so nothing here was measured on rows that were "
            "held out. `validation_fraction` of a run's `export:` holds some out."
        )
    lines = [(m["what"], interval(m["before"]), interval(m["after"])) for m in found["measures"]]
    return (
        f"On the {found['rows']:,} rows of the dataset's validation split, which were not trained "
        "on; 95 % bootstrap intervals over rows.\n\n" + table(("", "before", "after"), lines)
    )


def _loading(told: Told) -> str:
    task = "SequenceClassification" if told["stage"] == "reward" else "CausalLM"
    labels = ", num_labels=1" if told["stage"] == "reward" else ""
    base = told["base"]["reference"]
    lines = ["from transformers import AutoTokenizer"]
    if not told["adapter"]:
        lines[0] = f"from transformers import AutoModelFor{task}, AutoTokenizer"
        made = [f'model = AutoModelFor{task}.from_pretrained("OWNER/NAME")  # or this folder']
    elif _on_hub(base):
        lines.append(f"from peft import AutoPeftModelFor{task}")
        given = f'"OWNER/NAME"{labels}'
        made = [f"model = AutoPeftModelFor{task}.from_pretrained({given})  # or this folder"]
    else:
        lines = [f"from transformers import AutoModelFor{task}, AutoTokenizer"]
        lines.append("from peft import PeftModel")
        made = [
            f'base = AutoModelFor{task}.from_pretrained("BASE"{labels})',
            'model = PeftModel.from_pretrained(base, "OWNER/NAME")  # or this folder',
        ]
    tokenizer = 'tokenizer = AutoTokenizer.from_pretrained("OWNER/NAME")'
    code = "\n".join(["```python", *lines, "", *made, tokenizer, "```"])
    if not told["adapter"] or _on_hub(base):
        return code
    return (
        f"{code}\n\nBASE is the model that the adapter starts from, {cell(base)}, as a folder that "
        "transformers reads; its hash is above. Gristmill takes this folder as a model reference "
        "as it is, and finds the base itself."
    )


def _limits(told: Told) -> str:
    points = ["The loss of a step is measured on training rows: that it falls proves no use."]
    gate = told["dataset"]["gate"]
    if gate:
        verdict = "promoted" if gate["promoted"] else "held, not promoted"
        points.append(f"The dataset was {verdict}: {cell(gate['sentence'])}")
    else:
        points.append(
            "No comparison of the dataset with a random selection is recorded: a model trained on "
            "random rows of the same pool may be as good."
        )
    points.append("The licences of the dataset's sources and of the base model apply.")
    return "\n".join(f"- {point}" for point in points)
