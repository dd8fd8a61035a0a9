"""For scripts that need one module of the package and not JAX, which takes most of two seconds to import."""

#: Put before `from popgd import ...`: the package is then its directory, and runs nothing when it is imported.
WITHOUT_JAX = """
import importlib.util, sys, types
package = types.ModuleType("popgd")
package.__path__ = importlib.util.find_spec("popgd").submodule_search_locations
sys.modules["popgd"] = package
"""
