"""A complete repository folder from a recipe, and its way to the Hub."""

from .building import build
from .pushing import files_to_push, push
from .recipes import Recipe, read_recipe

__all__ = ["Recipe", "build", "files_to_push", "push", "read_recipe"]
