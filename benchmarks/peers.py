# SPDX-License-Identifier: Apache-2.0

"""The optimizers of other frameworks, measured as their users call them where they are installed."""

import contextlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from oracle import EpsOnCorrectedRoot

from benchmarks.process import progress
from mindspore_offload.errors import one_line

INSTALL = "in the folder of the source, pip install '.[peers]'"


@dataclass(frozen=True)
class Peer:
    """An optimizer of PyTorch's kind, with the interface of `benchmarks.rivals.Rival`."""

    make: Callable
    dtype: str = "float32"

    has_master: ClassVar[bool] = False  # of 16-bit parameters
    moment_dtype: ClassVar[str] = "float32"

    @property
    def gradients(self):
        return "NumPy" if self.dtype == "float32" else "torch"

    def start(self, data):
        """Returns a function that runs one step, and one that returns the last parameter."""
        import torch

        dtype = getattr(torch, self.dtype)
        parameters = [torch.nn.Parameter(torch.tensor(weight).to(dtype)) for weight in data.weights]
        for parameter, gradient in zip(parameters, data.gradients):
            parameter.grad = torch.from_numpy(gradient).to(dtype)
        optimizer = self.make(parameters)
        return optimizer.step, lambda: parameters[-1].detach().float().numpy()

    def oracle(self, weight):
        return EpsOnCorrectedRoot([weight])


def installed(threads):
    """Returns the installed peers by name, with this number of threads, and a sentence on each missing one."""
    missing = [f"{name} is not installed: {INSTALL}" for name in ("torch", "deepspeed") if not _is_installed(name)]
    found = {}
    if _is_installed("torch"):
        import torch

        torch.set_num_threads(threads)
        found["torch Adam, fused"] = Peer(lambda parameters: torch.optim.Adam(parameters, fused=True))
        if _is_installed("deepspeed"):
            progress("DeepSpeed compiles its kernel, if it has not done so before")
            try:
                found.update(_deepspeed())
            except Exception as error:  # its compiler, its kernel, or its imports
                missing.append(
                    f"DeepSpeed can't be measured ({one_line(error)}): it needs ninja in PATH and a compiler"
                )
    return found, missing


def _deepspeed():
    import torch

    with contextlib.redirect_stdout(sys.stderr):  # it logs to what is the standard output now, which may be for JSON
        from deepspeed.ops.adam import DeepSpeedCPUAdam

    def make(parameters, **settings):
        return DeepSpeedCPUAdam(parameters, adamw_mode=False, **settings)

    make([torch.nn.Parameter(torch.zeros(1))])  # builds the kernel
    return {
        "DeepSpeedCPUAdam": Peer(make),
        "DeepSpeedCPUAdam, bfloat16, no master": Peer(
            lambda parameters: make(parameters, fp32_optimizer_states=True), "bfloat16"
        ),
    }


def _is_installed(name):
    return importlib.util.find_spec(name) is not None
