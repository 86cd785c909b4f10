# Silverback puts this directory in front of PYTHONPATH for the plugin servers that it starts. Python runs this file
# when it begins, in every program that inherits the environment, so it only leaves a note: when a program imports
# kong_pdk.server, silverback_repair.py is loaded. A sitecustomize that was there before runs as it would have.
import sys

_WATCHED = "kong_pdk.server"


class _Watch(object):
    """Lets kong_pdk.server be imported as usual, and has it repaired then."""

    def find_spec(self, name, path=None, target=None):
        if name != _WATCHED:
            return None
        from importlib.util import find_spec

        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(object):
    def __init__(self, loader):
        self.loader = loader

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        module.__loader__ = module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        try:
            import silverback_repair

            silverback_repair.repair(module)
        except Exception as error:
            sys.stderr.write("WARN repair: kong-pdk runs as it is: %s\n" % (error,))

    def __getattr__(self, name):
        return getattr(self.loader, name)


def _run_the_next():
    """Runs the sitecustomize that this one hides."""
    ours = __file__.replace("\\", "/").rsplit("/", 1)[0]
    path, this = sys.path[:], sys.modules.pop("sitecustomize", None)
    sys.path[:] = [entry for entry in path if entry.rstrip("/") != ours]
    hidden = set(path) - set(sys.path)
    try:
        import sitecustomize  # noqa: F401
    except ImportError as error:
        if getattr(error, "name", "sitecustomize") != "sitecustomize":
            raise
    finally:
        # what it did to the path stays
        sys.path[:] = [entry for entry in path if entry in hidden] + [e for e in sys.path if e not in hidden]
        sys.modules.setdefault("sitecustomize", this)


if sys.version_info >= (3, 6):
    sys.meta_path.insert(0, _Watch())
_run_the_next()
