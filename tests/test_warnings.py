"""Who is to blame for a deprecation decides where it fails."""

import warnings
from contextlib import nullcontext

import pytest

KINDS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)


def warn(kind, module):
    warnings.warn_explicit("use another name", kind, "file.py", 1, module=module)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("module", ["gristmill.pipeline.score.score", __name__, "conftest"])
def test_our_own_misuse_is_an_error(kind, module):
    with pytest.raises(kind):
        warn(kind, module)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_library_deprecates_fails_on_the_newest_versions_alone(kind, pytestconfig):
    newest = f"error::{kind.__name__}" in (pytestconfig.option.pythonwarnings or [])
    with pytest.raises(kind) if newest else nullcontext():
        warn(kind, "library.core")


def test_other_warnings_of_libraries_are_errors():
    with pytest.raises(UserWarning):
        warn(UserWarning, "library.core")
