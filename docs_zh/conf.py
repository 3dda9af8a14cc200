# SPDX-License-Identifier: Apache-2.0

"""The documentation in Chinese. Everything else is in docs/common.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "docs"))

from common import *  # noqa: F403

language = "zh_CN"
