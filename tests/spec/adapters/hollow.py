"""Packages whose `__init__` is not run, for an adapter that needs one module of a large library."""

import importlib.util
from pathlib import Path
from types import ModuleType


def packages(*names, **attributes):
    """{name: module} for sys.modules: what is in such a package is found, and its own code, which
    wants Ray, vLLM or a GPU, is not run. `attributes` are what others import from each of them."""
    root = Path(importlib.util.find_spec(names[0]).submodule_search_locations[0])
    modules = {}
    for name in names:
        modules[name] = ModuleType(name)
        modules[name].__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        vars(modules[name]).update(attributes)
    return modules
