"""For scripts that need one module of the package and not JAX, whose import takes two seconds."""

#: Put before `from popgd import ...`: the package then runs nothing of its own when it is imported.
WITHOUT_JAX = """
import importlib.util, sys, types
package = types.ModuleType("popgd")
package.__path__ = importlib.util.find_spec("popgd").submodule_search_locations
sys.modules["popgd"] = package
"""
