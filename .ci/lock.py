"""Write the locks: the newest versions that pyproject.toml allows, with the hash of every file.

One lock serves every platform and every Python that the project takes. Left out are torch and what
its CUDA builds pull: `make setup` installs torch by itself, at the exact pin of pyproject.toml;
Ray, which clusters alone take, at an exact pin as well; and what asks object storage.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
# A build of torch has another hash wherever it comes from, and brings its own CUDA libraries.
WITH_TORCH = re.compile(r"torch|triton|(nvidia|cuda)-.*")
APART = {"ray", "s3"}  # extras that are no part of a machine to work on
TOOLS = """\
# What installs and builds the rest. Made by `make lock`.
"""
PACKAGES = """\
# Made by `make lock` from pyproject.toml; installed by `make setup`, without dependencies.
# torch is not here: it is installed at the exact pin, from where TORCH_INDEX_URL says.
"""


def resolved(requirements: list[str], *options: str) -> list[str]:
    """Packages as lines of a lock: name, version, marker, and the hash of every file.

    A package stands there twice if not every Python takes its newest version.
    """
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal"]
    command += ["--generate-hashes", "--no-annotate", "--no-header", *options, "-"]
    done = subprocess.run(
        command, input="\n".join(requirements), capture_output=True, text=True, cwd=ROOT
    )
    if done.returncode:
        sys.exit(done.stderr)
    return [block for block in re.split(r"^(?=\w)", done.stdout, flags=re.MULTILINE) if block]


def name(requirement: str) -> str:
    """`numpy` of `numpy==2.4.6 ; python_full_version < '3.12'`, of `numpy>=2` and of `numpy`."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


def write(file: str, header: str, packages: list[str]) -> None:
    """One lock, sorted."""
    (ROOT / file).write_text(header + "".join(sorted(packages)), "utf-8")
    print(f"{file}: {len(packages)} packages")


def main() -> None:
    """Resolve and write."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    about = project["project"]
    python = "--python-version=" + about["requires-python"].removeprefix(">=")
    tools = ["pip", *project["build-system"]["requires"]]
    optional = about["optional-dependencies"]
    extras = [need for extra in optional.keys() - APART for need in optional[extra]]
    wanted = [*tools, *about["dependencies"], *extras]
    packages = resolved(wanted, python)
    packages += resolved(project["dependency-groups"]["models"], python, "--no-deps")
    first = [p for p in packages if name(p) in map(name, tools)]
    rest = [p for p in packages if p not in first and not WITH_TORCH.fullmatch(name(p))]
    write("requirements-build.lock", TOOLS, first)
    write("requirements.lock", PACKAGES, rest)


if __name__ == "__main__":
    main()
