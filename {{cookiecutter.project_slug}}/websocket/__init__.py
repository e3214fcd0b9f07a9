"""WebSockets for Django: a socket is an async view in the URLconf."""

from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from typing import TYPE_CHECKING, Any

# The distribution websocket-client, which Selenium, docker and kubernetes need, has a package with
# the same name. This one hides it, so what is missing here is looked up there: submodules in its
# folder, and attributes in its __init__.py, which runs only when something asks for one.
with suppress(PackageNotFoundError):
    __path__.append(str(distribution("websocket-client").locate_file(__name__)))


@cache
def _load_hidden() -> Any:
    # Not as a package of its own: its relative imports lead to submodules of this one.
    name, path = f"{__name__}.hidden", f"{__path__[-1]}/__init__.py"
    spec: Any = spec_from_file_location(name, path, submodule_search_locations=None)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if not TYPE_CHECKING:  # For mypy, a name that is not in this package remains an error.

    def __getattr__(name: str) -> Any:
        # `from websocket import auth` asks for an attribute before it imports the submodule.
        if len(__path__) > 1 and find_spec(f"{__name__}.{name}") is None:
            return getattr(_load_hidden(), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
