"""Do LLaMA-Factory and axolotl take a published folder? Each answers with its own code.

    python benchmarks/loaders.py [--work data/work/loaders] [--only axolotl]

Each trainer gets an environment of its own beside this one: it sees this one's packages (torch
above all, which is not installed again) and has its own copies of what it pins otherwise.
Needs a package index; about 450 MB each. What is checked: its reader counts every row that was
shipped, and what its masks leave to train is the answer and its end token, nothing of the prompt.
TRL is checked in the test suite (tests/pipeline/export/test_loaders.py); open-instruct is in no
package index.
"""

import argparse
import json
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT / "tests"))

from published import publish  # noqa: E402

from gristmill.pipeline.models.tiny import make_tiny  # noqa: E402
from gristmill.pipeline.records.store import Store, remove  # noqa: E402

# What each release pins, and what it imports to read data; nothing here asks for torch.
PACKAGES = {
    "llamafactory": (
        "llamafactory==0.9.5 datasets==4.0.0 fsspec==2025.3.0 multiprocess==0.70.16 dill==0.3.8 "
        "transformers==5.6.0 tokenizers==0.22.2 huggingface_hub==1.33.0 pandas==2.3.3 trl==0.24.0 "
        "peft==0.18.1 accelerate==1.11.0 omegaconf==2.4.0 antlr4-python3-runtime==4.9.3 av einops "
        "sentencepiece tiktoken fire termcolor tyro==0.8.14 shtab pillow==11.3.0 torchdata==0.11.0 "
        "hf_transfer aiohttp aiosignal frozenlist multidict propcache yarl aiohappyeyeballs"
    ),
    "axolotl": (
        "axolotl==0.19.0 datasets==4.8.4 transformers==5.16.1 tokenizers==0.23.1 trl==1.9.0 "
        "huggingface_hub==1.17.0 peft==0.20.0 accelerate==1.13.0 hf_xet kernels==0.16.0 "
        "kernels-data==0.16.2 tomlkit addict posthog==6.7.11 backoff distro colorama multiprocess "
        "dill pandas einops fire sentencepiece mistral-common==1.11.5 python-dotenv "
        "antlr4-python3-runtime==4.13.2 schedulefree axolotl-contribs-lgpl==0.0.7 "
        "axolotl-contribs-mit==0.0.6 termcolor numba llvmlite"
    ),
}


def environment(trainer: str, work: Path) -> Path:
    """The trainer's Python, installed once."""
    home = work / trainer
    done = home / ".installed"
    python = home / "bin" / "python"
    if done.exists() and done.read_text() == PACKAGES[trainer]:
        return python
    remove(home)
    venv.create(home, with_pip=True)
    where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(
        subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip()
    )
    (packages / "base.pth").write_text(sysconfig.get_path("purelib") + "\n")
    if trainer == "llamafactory":  # imported with every reader, called for sound alone
        (packages / "torchaudio.py").write_text("")
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", *PACKAGES[trainer].split()]
    subprocess.run(install, check=True)
    done.write_text(PACKAGES[trainer])
    return python


def folders(work: Path) -> list[tuple[str, Path]]:
    """A published folder of each kind that trainers read."""
    base = work / "published"
    remove(base)
    (base / "store").mkdir(parents=True)
    store = Store(root=base / "store")
    views = ("conversation", "single")
    return [
        ("example", publish(base / "example", store)),
        ("pair", publish(base / "pair", store, kind="pair", pair_views=views)),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=ROOT / "data/work/loaders")
    parser.add_argument("--only", choices=sorted(PACKAGES), action="append")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    tiny = make_tiny(work / "tiny", context=4096)
    published = folders(work)
    failed = 0
    for trainer in options.only or sorted(PACKAGES):
        try:
            python = environment(trainer, work)
        except subprocess.CalledProcessError as error:
            print(
                f"{trainer}: not installed here ({error}); its rules are in "
                "tests/pipeline/export/test_export.py"
            )
            failed += 1
            continue
        for kind, folder in published:
            probe = [python, HERE / f"loaders_{trainer}.py", folder, kind, tiny, work / "cache"]
            done = subprocess.run(probe, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{trainer}, {kind}: FAILED\n{done.stderr[-2000:]}")
                failed += 1
                continue
            answer = json.loads(done.stdout.splitlines()[-1])
            right = answer["rows"] == 30 and answer["trained_only_answers"]
            failed += not right
            masks = "right" if answer["trained_only_answers"] else "WRONG"
            print(f"{trainer}, {kind}: {answer['rows']} of 30 rows, masks {masks}")
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
