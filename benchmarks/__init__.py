"""The benchmark: ``python -m benchmarks`` from the root of the repository. It is not part of the installed package."""
