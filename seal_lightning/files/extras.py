"""How to install an extra. Its packages are named one by one: pip finds this package, and its extras, on no index."""

from importlib.metadata import PackageNotFoundError, requires


def install(extra: str) -> str:
    """The command that installs the packages of an extra of pyproject.toml, however this package was installed."""
    try:
        requirements = requires("seal-lightning") or []
    except PackageNotFoundError:  # run from its source
        requirements = []
    pairs = [requirement.partition(";") for requirement in requirements]
    names = sorted(name.strip() for name, _, marker in pairs if f'extra == "{extra}"' in marker)
    return "pip install " + " ".join(f"'{name}'" for name in names) if names else f"pip install -e '.[{extra}]'"
