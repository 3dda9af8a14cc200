# SPDX-License-Identifier: Apache-2.0

"""Checks the versions of Python, MindSpore and numpy, without importing them."""

import importlib.metadata
import platform
import re

from mindspore_offload.diagnosis.finding import FAILED, OK, Finding

# As in pyproject.toml: the first release that is supported, and the first that no longer is.
SUPPORTED = {"Python": ((3, 9), (3, 13)), "MindSpore": ((2, 7, 0), (2, 11)), "numpy": ((1, 26), (2,))}
WHY = {"numpy": "; with numpy 2, MindSpore's bfloat16 tensors and its NumpySlicesDataset fail"}


def check(name):
    """Returns the `Finding` about the version of Python or of an installed distribution."""
    first, beyond = (".".join(map(str, bound)) for bound in SUPPORTED[name])
    wanted = f"at least {first} and below {beyond} is supported"
    cure = f"pip install '{name.lower()}>={first},<{beyond}'"
    if name == "Python":
        cure = "install mindspore_offload into an environment of Python 3.9 to 3.12"
    try:
        text = platform.python_version() if name == "Python" else importlib.metadata.version(name.lower())
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, FAILED, "is not installed", cure)
    if is_supported(name, text):
        return Finding(name, OK, f"{text}; {wanted}")
    return Finding(name, FAILED, f"{text}, but {wanted}{WHY.get(name, '')}", cure)


def is_supported(name, version):
    """Returns True if the numbers that a version starts with are in the range: (2, 10, 0) of "2.10.0rc1"."""
    first, beyond = SUPPORTED[name]
    numbers = re.match(r"[\d.]*", version)[0]
    return first <= tuple(int(number) for number in numbers.split(".") if number) < beyond
