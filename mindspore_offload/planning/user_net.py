# SPDX-License-Identifier: Apache-2.0

"""Builds the net of a user's function without memory for its parameters."""

import contextlib
import importlib
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
    try:
        from mindspore import nn
        from mindspore.nn.utils import no_init_parameters
    except Exception as error:
        raise CommandError(
            f"--net needs MindSpore and its nn.utils.no_init_parameters, but importing them raised {one_line(error)}; "
            f"give --params or --checkpoint"
        ) from error
    with contextlib.redirect_stdout(sys.stderr):  # the standard output is for the results
        with _explained(spec, source, "it is imported, not run as a program"):
            module = _file(source, spec) if source.endswith(".py") else _module(source, spec)
        function = getattr(module, name, None)
        if not callable(function):
            names = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
            raise CommandError(
                f"--net {spec}: {source} has no function {name!r}; it has {', '.join(names[:5]) or 'none at all'}"
            )
        with _explained(spec, f"{name}()", "it is called without arguments"), no_init_parameters():
            net = function()
    if not isinstance(net, nn.Cell):
        raise CommandError(f"--net {spec} must return a Cell, but got {type(net).__name__}; return the net")
    if not net.trainable_params():
        count = len(list(net.get_parameters()))
        frozen = f"a frozen net: none of its {count} parameters has requires_grad=True"
        what = frozen if count else f"{type(net).__name__} without parameters"
        raise CommandError(f"--net {spec} returns {what}; there is nothing to train")
    return net


def _file(source, spec):
    """Loads this very file, with the modules beside it at hand as for a program."""
    path = os.path.abspath(source)
    if not os.path.isfile(path):
        raise CommandError(f"--net {spec}: there is no file {path}")
    sys.path.insert(0, os.path.dirname(path))
    module_spec = importlib.util.spec_from_file_location(NAME, path)
    module = sys.modules[NAME] = importlib.util.module_from_spec(module_spec)  # dataclasses look their module up
    module_spec.loader.exec_module(module)
    return module


def _module(source, spec):
    """Imports a module of this folder, or an installed one."""
    sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(source)
    except ModuleNotFoundError as error:
        # The module itself or a package that it would be in, and not a module that it imports.
        if error.name and f"{source}.".startswith(f"{error.name}."):
            raise CommandError(
                f"--net {spec}: there is no module {error.name!r} in {os.getcwd()} or among the installed ones; "
                f"for a file give its path, as in models/llama.py:build"
            ) from error
        raise


@contextlib.contextmanager
def _explained(spec, subject, hint):
    """Turns whatever the user's code raises into one line, with the user's file and line."""
    try:
        yield
    except CommandError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, SyntaxError):
            text = f"{error.filename}, line {error.lineno}, is not valid Python: {error.msg}"
        elif isinstance(error, ModuleNotFoundError):
            text = f"the module {error.name!r} is not installed, but is imported{_place(error)}; install it"
        else:
            text = f"{subject} raised {one_line(error)}{_place(error)}; {hint}"
        raise CommandError(f"--net {spec}: {text}") from error


def _place(error):
    """Returns the innermost file and line of the user's code in the traceback; nothing if there is none."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_of_user(frame.filename)]
    return f" in {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""


def _is_of_user(path):
    """True for a file that is neither part of Python nor of MindSpore nor of this package."""
    import mindspore

    library = os.path.dirname(os.__file__)
    is_installed = path.startswith(os.path.join(library, "site-packages"))
    others = (os.path.dirname(mindspore.__file__), os.path.dirname(__file__), "<")
    return not path.startswith(others if is_installed else (*others, library))
