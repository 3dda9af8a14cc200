"""The optimizers of other frameworks that are measured where they are installed."""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Callable
from typing import NamedTuple

from mindspore_offload.commands.errors import one_line
from mindspore_offload.commands.progress import progress

INSTALL = "in the folder of the source, pip install '.[peers]'"


class Peer(NamedTuple):
    """An optimizer of PyTorch's kind."""

    make: Callable
    dtype: str = "float32"
    has_master = False  # of 16-bit parameters

    def start(self, data):
        """A function that runs one step, and one that gives the last parameter."""
        import torch

        dtype = getattr(torch, self.dtype)
        parameters = [torch.nn.Parameter(torch.tensor(weight).to(dtype)) for weight in data.weights]
        for parameter, gradient in zip(parameters, data.gradients):
            parameter.grad = torch.from_numpy(gradient).to(dtype)
        optimizer = self.make(parameters)
        return optimizer.step, lambda: parameters[-1].detach().float().numpy()

    def expected(self):
        return {"eps_on_corrected_root": True}


def installed(threads):
    """The peers that are here, by name, with this number of threads; and a sentence on each that is not."""
    missing = [f"{name} is not installed: {INSTALL}" for name in ("torch", "deepspeed") if not _is_there(name)]
    found = {}
    if _is_there("torch"):
        import torch

        torch.set_num_threads(threads)
        found["torch Adam, fused"] = Peer(lambda parameters: torch.optim.Adam(parameters, fused=True))
        if _is_there("deepspeed"):
            progress("DeepSpeed compiles its kernel, if it has not done so before")
            try:
                found.update(_deepspeed())
            except Exception as error:  # its compiler, its kernel, or its imports
                missing.append(
                    f"DeepSpeed can't be measured ({one_line(error)}): it needs ninja in PATH and a compiler"
                )
    return found, missing


def _deepspeed():
    with _prints_to_stderr():
        import torch
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        def make(parameters, **settings):
            with _prints_to_stderr():
                return DeepSpeedCPUAdam(parameters, adamw_mode=False, **settings)

        make([torch.nn.Parameter(torch.zeros(1))])  # builds the kernel
    return {
        "DeepSpeedCPUAdam": Peer(make),
        "DeepSpeedCPUAdam, bfloat16, no master": Peer(
            lambda parameters: make(parameters, fp32_optimizer_states=True), "bfloat16"
        ),
    }


@contextlib.contextmanager
def _prints_to_stderr():
    """What Python and child processes print, so that the standard output has the results only."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _is_there(name):
    return importlib.util.find_spec(name) is not None
