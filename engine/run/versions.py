"""Which versions are installed, read from their metadata without importing them."""

import importlib.metadata

import engine


def installed_versions() -> dict[str, str]:
    """Return the versions that decide the output's bytes, without importing any of these packages."""
    versions = {"engine": engine.__version__}
    for name, distributions in {
        "tensorflow": ("tensorflow", "tensorflow-cpu", "tensorflow-intel"),
        "pyarrow": ("pyarrow",),
        "ray": ("ray",),
    }.items():
        for distribution in distributions:
            try:
                versions[name] = importlib.metadata.version(distribution)
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    return versions
