"""The locks hold what pyproject.toml asks for, and nothing of the machine that made them."""

import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
ABOUT = PROJECT["project"]
LOCKS = [ROOT / "requirements-build.lock", ROOT / "requirements.lock"]
# Installed by themselves, at these exact pins: torch in a build for each device, Ray on clusters.
APART = {"torch", "ray"}
OPTIONAL = {"boto3"}  # in a range: it lives with what a machine asks object storage with
ASKED = [
    *ABOUT["dependencies"],
    *chain.from_iterable(ABOUT["optional-dependencies"].values()),
    *PROJECT["dependency-groups"]["models"],
    *PROJECT["build-system"]["requires"],
]


def locked():
    """Requirements of the locks for this Python and platform, by name."""
    text = "".join(path.read_text("utf-8") for path in LOCKS)
    lines = [line.removesuffix("\\") for line in text.splitlines() if re.match(r"\w", line)]
    return {canonicalize_name(r.name): r for r in map(Requirement, lines) if applies(r)}


def applies(requirement):
    return requirement.marker is None or requirement.marker.evaluate()


def version(requirement):
    (pin,) = requirement.specifier
    assert pin.operator == "=="
    return pin.version


@pytest.mark.parametrize("asked", ASKED)
def test_the_lock_holds_a_version_that_the_range_allows(asked):
    asked = Requirement(asked)
    if asked.name in APART:
        assert asked.name not in locked()
        assert version(asked)
        return
    if asked.name in OPTIONAL:
        assert asked.name not in locked()
        return
    assert asked.name in locked(), "run: make lock"
    assert version(locked()[asked.name]) in asked.specifier, "run: make lock"


def test_what_is_locked_brings_what_it_needs():
    import importlib.metadata as metadata

    pins = locked()
    files_alone = {Requirement(r).name for r in PROJECT["dependency-groups"]["models"]}
    for name in sorted(pins.keys() - files_alone):
        installed = metadata.distribution(name)
        if installed.version != version(pins[name]):  # newer ones: `make test-latest`
            continue
        for needed in map(Requirement, installed.requires or []):
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                other = canonicalize_name(needed.name)
                assert other in {*pins, "torch"}, f"{name} needs {needed}"
                if other != "torch":
                    assert version(pins[other]) in needed.specifier, f"{name} needs {needed}"


@pytest.mark.parametrize("path", LOCKS, ids=lambda p: p.name)
def test_each_package_is_known_by_its_hash_and_by_no_address(path):
    text = path.read_text("utf-8")
    for package in re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]:
        assert "--hash=sha256:" in package, package
    assert not re.search(r"://|^-|(?<!\w)/\w", text, re.MULTILINE)
