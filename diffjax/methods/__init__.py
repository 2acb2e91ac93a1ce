"""Distillation methods, one module each, registered under the name that configs use.

A module of this package that registers a method is found by itself: adding one touches no other
file. `get` looks a method up, `names` lists them.
"""

from diffjax.methods.base import Learner, Method, Turn, get, names, register

__all__ = ["Learner", "Method", "Turn", "get", "names", "register"]
