# SPDX-License-Identifier: Apache-2.0

"""safetensors files: eight bytes of length, a header in JSON, the values."""

import contextlib
import json

from mindspore_offload.checkpoints.checkpoint_file import CHECKSUM_NAME, CheckpointFile, Entry

METADATA = "__metadata__"  # in the header, beside the tensors
# MindSpore's names of the dtypes.
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"}
DTYPES |= {f"{sign}{bits}": f"{name}{bits}" for sign, name in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)}
HEADER_LIMIT = 2**24  # bytes, about 100 per tensor; parsing may need 30 times that in memory
DIGITS_READ = 20  # of a number: as many show that it is too large


class SafetensorsFile(CheckpointFile):
    """A safetensors file."""

    KIND = "a file of safetensors"

    def _read(self):
        tensors, start = self._header()
        self._metadata = tensors.pop(METADATA, {})
        if not isinstance(self._metadata, dict) or not all(isinstance(text, str) for text in self._metadata.values()):
            raise self.damaged(f"{METADATA} in its header is not an object of texts")
        entries = {name: self._entry(name, tensor, start) for name, tensor in tensors.items()}
        begins = sorted(entry.places[0].start for entry in entries.values())
        ends = sorted(entry.places[0].stop for entry in entries.values())
        if [*begins, self.length] != [start, *ends]:
            raise self.damaged(
                f"its tensors have {sum(ends) - sum(begins):,} bytes together, and must fill the "
                f"{self.length - start:,} bytes behind its header without overlaps and gaps"
            )
        return entries, self._metadata.pop(CHECKSUM_NAME, None), self._names_and_values(entries)

    def _header(self):
        """Returns the header, and the place where the values begin."""
        size = int.from_bytes(self.read(range(8)), "little")
        with contextlib.suppress(ValueError, RecursionError):
            header = json.loads(
                self.read(range(8, 8 + size), HEADER_LIMIT).decode("utf-8"),
                object_pairs_hook=self._unique,
                parse_int=lambda digits: int(digits[:DIGITS_READ]),
            )
            if isinstance(header, dict):
                return header, 8 + size
        raise self.damaged("its header is not a valid object of JSON")

    def _unique(self, pairs):
        found = dict(pairs)
        if len(found) != len(pairs):
            raise self.damaged("a name occurs twice in its header")
        return found

    def _entry(self, name, tensor, start):
        """Returns the tensor that the header describes. Its values begin at `start`."""
        with contextlib.suppress(TypeError, KeyError, ValueError):
            code, shape, (begin, end) = tensor["dtype"], tuple(tensor["shape"]), tensor["data_offsets"]
            if isinstance(code, str) and begin <= end:
                return Entry(name, shape, DTYPES.get(code, code), code, [range(start + begin, start + end)])
        raise self.damaged(f"the entry of the tensor {name!r:.60} is not one of a tensor")

    def _names_and_values(self, entries):
        for name in sorted(entries):
            yield name.encode("utf-8", "surrogatepass")
            yield from self.blocks(name)

    def written(self, tensors, has_checksum):
        """The new file has the metadata of this one, and no checksum.

        The tensors of the longest dtype come first, so that each element is aligned.
        """
        tensors = sorted(tensors, key=lambda tensor: (-(tensor[0].length // max(tensor[0].size, 1)), tensor[0].name))
        header, end = {METADATA: self._metadata} if self._metadata else {}, 0
        for entry, _ in tensors:
            start, end = end, end + entry.length
            header[entry.name] = {"dtype": entry.code, "shape": entry.shape, "data_offsets": (start, end)}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        yield len(text).to_bytes(8, "little") + text
        for _, blocks in tensors:
            yield from blocks
