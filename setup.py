# SPDX-License-Identifier: Apache-2.0

"""Compiles mindspore_offload/csrc into one shared library inside the package, and adds the links to the repository.

Everything else is in pyproject.toml.
"""

import os
import re
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

SOURCES = Path("mindspore_offload/csrc")

# CFLAGS and the like come before these flags. -fno-fast-math undoes a -ffast-math there, which would change results.
# Without -fno-math-errno the compiler leaves the square root, and with it the whole loop, scalar. -ffp-contract=off
# keeps every product and sum rounded on its own, so that all instruction sets give the same bits. -falign-loops=64:
# a Zen 4 CPU was up to a fifth slower where a short loop began at an unlucky address. There is no -march: the library
# picks an instruction set at run time.
FLAGS = [*(SOURCES / "compile_flags.txt").read_text().split(), "-g0", "-fvisibility=hidden"]

# With -ffast-math or the like in CFLAGS or LDFLAGS, gcc links a start-up file that turns subnormal numbers into zeros
# in the whole process. These undo each of the flags that it looks at.
LINK_FLAGS = ["-pthread", "-O3", "-fno-fast-math", "-fno-unsafe-math-optimizations"]


class BuildLibrary(build_ext):
    """Builds a plain shared library: no Python header, no Python version in its name."""

    def get_ext_filename(self, fullname):
        return fullname.replace(".", "/") + ".so"

    def get_export_symbols(self, ext):
        return []

    def build_extension(self, ext):
        """A machine without a compiler gets a package without the library; an error in our own code is an error."""
        if self._compiler_works():
            super().build_extension(ext)
            return
        self.warn(
            "the native library was NOT built, because no working C++ compiler was found. The package runs on "
            "MindSpore's own, slower operations. For the native kernel install g++ or clang++, and install it again "
            "with pip's option --no-cache-dir."
        )

    def copy_extensions_to_source(self):
        """For an editable installation; a library of an earlier build would be stale where there is none now."""
        for ext in self.extensions:
            name = self.get_ext_filename(ext.name)
            if Path(self.build_lib, name).exists():
                self.copy_file(str(Path(self.build_lib, name)), name)
            else:
                Path(name).unlink(missing_ok=True)

    def get_outputs(self):
        return [path for path in super().get_outputs() if Path(path).exists()]

    def _compiler_works(self):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.cc")
            source.write_text("#include <thread>\nint main() { return std::thread::hardware_concurrency() == 0; }\n")
            try:
                self.compiler.compile([str(source)], output_dir=folder, extra_postargs=FLAGS)
            except CompileError:
                return False
        return True


class PlatformWheel(bdist_wheel):
    """Tags the wheel for the platform only, as the library fits every Python; a wheel without the library for any."""

    def get_tag(self):
        has_library = any(Path(path).exists() for path in self.get_finalized_command("build_ext").get_outputs())
        return "py3", "none", super().get_tag()[2] if has_library else "any"


def metadata_with_links(repository):
    """Returns README and the links for a package index. They are absolute if the address of the repository is known."""
    readme, urls = Path("README.md").read_text(encoding="utf-8"), {}
    if repository:
        version = re.search(r'__version__ = "(.*)"', Path("mindspore_offload/_version.py").read_text())[1]
        for kind, start in (("raw", r"(!\[[^\]]*\]\()"), ("blob", r"(\]\()")):  # pictures, then pages
            readme = re.sub(rf"{start}(?!https:)", rf"\g<1>{repository}/{kind}/v{version}/", readme)
        pages = f"{repository}/blob/v{version}"
        urls = {
            "Repository": repository,
            "Documentation": f"{pages}/docs_en/index.rst",
            "Changelog": f"{pages}/CHANGELOG.md",
            "Issues": f"{repository}/issues",
        }
    return {"long_description": readme, "long_description_content_type": "text/markdown", "project_urls": urls}


setup(
    **metadata_with_links(os.environ.get("REPOSITORY")),  # the workflow of the releases names it
    ext_modules=[
        Extension(
            "mindspore_offload.libmindspore_offload",
            sources=sorted(str(path) for path in SOURCES.glob("*.cc")),
            depends=sorted(str(path) for pattern in ("*.h", "*.txt") for path in SOURCES.glob(pattern)),
            extra_compile_args=FLAGS,
            define_macros=[("MINDSPORE_OFFLOAD_FLAGS", f'"{" ".join(FLAGS)}"')],
            extra_link_args=LINK_FLAGS,
            language="c++",
        )
    ],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": PlatformWheel},
)
