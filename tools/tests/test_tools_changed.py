"""A change is tested in the packages it touches."""

import pytest
from changed import touched

NAMES = ["core", "pvf", "zeroth"]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ([], []),
        (["packages/pvf/src/modicum/pvf/a.py", "packages/pvf/README.md"], ["pvf"]),
        (["packages/zeroth/a", "packages/pvf/a"], ["pvf", "zeroth"]),
        (["shared/core/src/modicum/core/a.py"], ["core", "pvf", "tools", "zeroth"]),
        (["packages/pvf/a", "uv.lock"], ["core", "pvf", "tools", "zeroth"]),
        (["packages/new/a"], ["core", "pvf", "tools", "zeroth"]),
    ],
)
def test_touched(paths, expected):
    assert touched(paths, NAMES) == expected
