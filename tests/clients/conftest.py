# SPDX-License-Identifier: Apache-2.0

"""Finds the modules that the tests of client libraries share with other tests and with the examples."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT / "tests"), str(ROOT / "examples")]
