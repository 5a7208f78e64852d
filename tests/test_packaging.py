"""Wheel and sdist: what they hold, and that the command works where there is no clone."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import datasets
import pytest

ROOT = Path(__file__).parents[1]
SHIPPED = ("pipeline", "selectors", "synthesis", "flows", "data/demo")
BUILD = "import sys; from setuptools import build_meta as b; print(getattr(b, sys.argv[1])(sys.argv[2]))"
pytestmark = pytest.mark.slow


def tracked(*folders: str) -> list[str]:
    words = ["git", "ls-files", "-co", "--exclude-standard", *folders]
    told = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True)
    return told.stdout.splitlines()


def made(what: str, source: Path, target: Path) -> Path:
    """A distribution of the sources in a folder, by the build back end and nothing from outside."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD, f"build_{what}", str(target)],
        cwd=source,
        check=True,
        capture_output=True,
        text=True,
    )
    return target / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of the sdist of what is tracked."""
    source = tmp_path_factory.mktemp("source")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, source / name)
    built = tmp_path_factory.mktemp("built")
    sdist = made("sdist", source, built)
    shutil.unpack_archive(sdist, built / "unpacked", filter="data")
    (unpacked,) = (built / "unpacked").iterdir()
    return made("wheel", unpacked, built)


def test_the_wheel_holds_every_file_of_the_packages_and_no_other(wheel):
    names = {n.removeprefix("gristmill/") for n in zipfile.ZipFile(wheel).namelist()}
    files = {name for name in tracked(*SHIPPED) if (ROOT / name).is_file()}
    assert files <= names
    assert {n for n in names if ".dist-info/" not in n} == files


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The command of the installed wheel, run in a folder where there is no clone."""
    site = tmp_path_factory.mktemp("site")
    words = ["install", "-q", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)

    def gristmill(here: Path, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, str(site / "bin" / "gristmill"), *words],
            cwd=here,
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "GRIST"))},
                "PYTHONPATH": str(site),
            },
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    return gristmill


def test_the_command_works_where_there_is_no_clone(installed, tmp_path):
    assert "--copy" in installed(tmp_path, "demo", "--help")
    found = {row["what"]: row for row in json.loads(installed(tmp_path, "doctor", "--json"))}
    assert found["gristmill"]["state"] == "ok"
    assert len(json.loads(installed(tmp_path, "methods", "--json"))) >= 50
    assert "there is no prefect.yaml" in installed(tmp_path, "bootstrap", code=2)
    assert installed(tmp_path, "demo", "--copy").strip() == "data/demo"
    assert (tmp_path / "data" / "demo" / "LICENSES" / "gsm8k-MIT.txt").is_file()
    installed(tmp_path, "init", "--clean", "run.yaml")
    text = (tmp_path / "run.yaml").read_text("utf-8")
    (tmp_path / "run.yaml").write_text(
        text.partition("  semantic:")[0].replace("similarity: 0.82", "similarity: null")
    )
    assert "valid (a clean run" in installed(tmp_path, "validate", "run.yaml")


def test_the_demo_runs_on_the_rows_of_the_package(installed, tmp_path):
    said = installed(tmp_path, "demo")
    (folder,) = (w.split()[-1] for w in said.splitlines() if w.startswith("published"))
    installed(tmp_path, "verify", folder)
    data = datasets.load_dataset(str(tmp_path / folder), cache_dir=str(tmp_path / "cache"))
    assert data["train"].num_rows > 0
