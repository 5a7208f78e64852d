"""No file of ours reads data in a way that can run code of it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("pipeline", "selectors", "synthesis", "flows")
MODULES = sorted(p for f in FOLDERS for p in (ROOT / f).rglob("*.py"))
# Modules whose readers run what they read, and calls that run a text.
# What a driver hands to workers that it began itself; nothing of it is read from a file.
MESSAGES = [f"pipeline/engine/{name}.py" for name in ("on_ray", "processes", "working")]
READERS = {"pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "jsonpickle"}
CALLS = {"eval", "exec", "compile", "__import__"}
UNSAFE = {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "torch.load", "torch.jit.load"}
UNSAFE |= {"os.system", "os.popen"}


def faults(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
            found += [f"imports {n}" for n in names if n and n.split(".")[0] in READERS]
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {k.arg: k.value for k in node.keywords}
        told = {k: v.value for k, v in given.items() if isinstance(v, ast.Constant)}
        if name in CALLS:
            found.append(f"calls {name}")
        if name in UNSAFE and not _safe(name, node, told):
            found.append(f"calls {name}")
        if told.get("trust_remote_code") or told.get("allow_pickle") or told.get("shell"):
            found.append(f"calls {name} with trust")
        if "trust_remote_code" in given and "trust_remote_code" not in told:
            found.append(f"{name} trusts what somebody says")
    return found


def _safe(name: str, node: ast.Call, told: dict[str, object]) -> bool:
    if name == "yaml.load":
        return len(node.args) == 2 and ast.unparse(node.args[1]) == "_Loader"  # a SafeLoader
    return name == "torch.load" and told.get("weights_only") is True


def test_nothing_that_is_read_can_run():
    found = {p: faults(ast.parse(p.read_text("utf-8"))) for p in MODULES}
    told = {str(p.relative_to(ROOT)): some for p, some in found.items() if some}
    assert told == {name: ["imports pickle"] for name in MESSAGES}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "yaml.load(text)",
        "yaml.load(text, yaml.Loader)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(folder, trust_remote_code=True)",
        "AutoModel.from_pretrained(folder, trust_remote_code=config.trust)",
        "subprocess.run(command, shell=True)",
        "eval(text)",
    ],
)
def test_each_way_would_be_seen(code):
    assert len(faults(ast.parse(code))) == 1
