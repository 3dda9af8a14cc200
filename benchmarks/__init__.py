# SPDX-License-Identifier: Apache-2.0

"""The benchmark: ``python -m benchmarks`` from the root of the repository. It is not part of the installed package."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))  # for their oracle
