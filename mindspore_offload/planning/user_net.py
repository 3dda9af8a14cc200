# SPDX-License-Identifier: Apache-2.0

"""Builds the net of a user's function without memory for its parameters."""

import contextlib
import importlib.util
import os
import sys
import traceback

from mindspore_offload.errors import CommandError, one_line

NAME = "net_of_user"  # of the module that a file is loaded as: an installed module may have the file's own name


def build(spec):
    """Returns the net that ``module:function`` or ``script.py:function`` returns."""
    source, _, name = spec.rpartition(":")
    if not source or not name:
        raise CommandError(f"--net must be module:function, as in models.llama:build, but got {spec!r}")
    if source.endswith(".py") and not os.path.isfile(source):
        raise CommandError(f"--net {spec}: there is no file {os.path.abspath(source)}")
    try:
        from mindspore import nn
        from mindspore.nn.utils import no_init_parameters
    except Exception as error:
        text = f"importing MindSpore raised {one_line(error)}; give --params or --checkpoint"
        raise CommandError(f"--net {spec}: {text}") from error
    with contextlib.redirect_stdout(sys.stderr):  # the standard output is for the results
        with _explained(spec, source, "it is imported, not run as a program"):
            module = _loaded(source)
        function = getattr(module, name, None)
        if not callable(function):
            names = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
            has = ", ".join(names[:5]) or "none at all"
            raise CommandError(f"--net {spec}: {source} has no function {name!r}; it has {has}")
        with _explained(spec, f"{name}()", "it is called without arguments"), no_init_parameters():
            net = function()
    if not isinstance(net, nn.Cell):
        raise CommandError(f"--net {spec} must return a Cell, but got {type(net).__name__}; return the net")
    if not net.trainable_params():
        frozen = f"of {len(list(net.get_parameters()))} parameters, none has requires_grad=True"
        raise CommandError(f"--net {spec} returns {type(net).__name__}: {frozen}; there is nothing to train")
    return net


def _loaded(source):
    """Loads this very file, or imports a module. The modules beside it are at hand, as for a program."""
    path = os.path.abspath(source)
    sys.path.insert(0, os.path.dirname(path))
    if not source.endswith(".py"):
        return importlib.import_module(source)
    spec = importlib.util.spec_from_file_location(NAME, path)
    module = sys.modules[NAME] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _explained(spec, subject, hint):
    """Turns whatever the user's code raises into one line, with the user's file and line."""
    try:
        yield
    except (Exception, SystemExit) as error:
        place = _place(error)
        if isinstance(error, SyntaxError):
            text = f"{error.filename}, line {error.lineno}, is not valid Python: {error.msg}"
        elif isinstance(error, ModuleNotFoundError) and place:
            text = f"the module {error.name!r} is not installed, but is imported{place}; install it"
        elif isinstance(error, ModuleNotFoundError):
            text = f"there is no module {error.name!r} in {os.getcwd()} or among the installed ones; "
            text += "for a file give its path, as in models/llama.py:build"
        else:
            text = f"{subject} raised {one_line(error)}{place}; {hint}"
        raise CommandError(f"--net {spec}: {text}") from error


def _place(error):
    """Returns the innermost file and line of the user's code in the traceback; nothing if there is none.

    A file of Python, of MindSpore or of this package is none of the user's.
    """
    import mindspore

    others = (f"{os.path.dirname(mindspore.__file__)}/", f"{os.path.dirname(os.path.dirname(__file__))}/", "<")
    library = os.path.dirname(os.__file__)
    for path, line, *_ in reversed(traceback.extract_tb(error.__traceback__)):
        is_of_python = path.startswith(library) and "site-packages" not in path
        if not is_of_python and not path.startswith(others):
            return f" in {path}, line {line}"
    return ""
