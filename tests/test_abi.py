# SPDX-License-Identifier: Apache-2.0

"""A library whose wire format differs from that of the Python side is refused, in words."""

import re

import numpy as np
import pytest

from mindspore_offload import abi, native_library


def swapped(values, i=0):
    values = list(values)
    values[i], values[i + 1] = values[i + 1], values[i]
    return tuple(values)


# For each: the attribute of abi, its other value, the entry that the message names.
CHANGES = {
    "swapped-columns": ("COLUMNS", swapped(abi.COLUMNS, 8), "columns"),
    "a-column-more": ("COLUMNS", (*abi.COLUMNS, "momentum"), "columns"),
    "swapped-columns-of-rows": ("ROWS", swapped(abi.ROWS), "rows"),
    "swapped-roles": ("ROLES", swapped(abi.ROLES, 3), "roles"),
    "swapped-statuses": ("STATUSES", swapped(abi.STATUSES), "statuses"),
    "a-new-element-type": ("ELEMENT_TYPES", (*abi.ELEMENT_TYPES, "float8"), "elements"),
    "a-new-moment-format": ("MOMENT_FORMATS", (*abi.MOMENT_FORMATS, "int8"), "moments"),
    "another-block": ("BLOCK", 512, "block"),
}


def test_the_library_fits():
    native_library.load()


@pytest.mark.parametrize("change", CHANGES)
def test_a_difference_is_refused(change, fresh_library):
    name, value, entry = CHANGES[change]
    own = abi.description()[entry]
    fresh_library.setattr(abi, name, value)
    other = abi.description()[entry]
    assert own != other
    shown = re.escape(f"{entry!r} is {own!r} in the library, but {other!r} in Python; ")
    with pytest.raises(native_library.NativeLibraryError, match=f"{shown}.*reinstall.*build_ext --inplace"):
        native_library.load()


def test_a_library_without_a_description_is_refused(fresh_library):
    """As those built before there was one. Any other library has none."""
    fresh_library.setattr(native_library, "PATH", type(native_library.PATH)(np.core._multiarray_umath.__file__))
    with pytest.raises(native_library.NativeLibraryError, match="'columns' is 'missing' in the library, but"):
        native_library.load()


def test_an_entry_that_only_the_library_has_is_refused():
    text = "".join(f"{entry}: {values}\n" for entry, values in abi.description().items())
    assert abi.difference(text) is None
    assert "'order' is 'big' in the library, but 'missing' in Python" in abi.difference(f"{text}order: big\n")
