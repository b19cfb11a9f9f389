"""What to install for an extra. Its packages are named: this one is on no index where pip could look for extras."""

from importlib.metadata import PackageNotFoundError, requires


def install(extra: str) -> str:
    """The command that installs what an extra of pyproject.toml asks for, beside whatever way this package came."""
    try:
        found = requires("seal-lightning") or []
    except PackageNotFoundError:  # run from its source
        found = []
    pairs = [requirement.partition(";") for requirement in found]
    names = sorted(name.strip() for name, _, marker in pairs if f'extra == "{extra}"' in marker)
    return "pip install " + " ".join(f"'{name}'" for name in names) if names else f"pip install -e '.[{extra}]'"
