# SPDX-License-Identifier: Apache-2.0

"""A finding of `doctor`."""

import textwrap
from typing import NamedTuple

OK, NOTE, WARNING, FAILED, SKIPPED = "ok", "note", "warning", "failed", "skipped"


class Finding(NamedTuple):
    """The result of one check. A fault is `FAILED` if the optimizer would use that part by default, else `WARNING`."""

    subject: str
    state: str
    text: str
    cure: str = ""

    def __str__(self):
        layout = textwrap.TextWrapper(120, subsequent_indent=" " * 27, break_on_hyphens=False, break_long_words=False)
        text = layout.fill(f"{self.state:9}{self.subject:18}{self.text}")
        cure = layout.fill(f"{'':27}cure: {self.cure}")
        return f"{text}\n{cure}" if self.cure else text
