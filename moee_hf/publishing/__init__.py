"""A complete repository folder from a recipe or a saved model, and its way to the Hub."""

from .building import build
from .pushing import files_to_push, push, table_of_files
from .recipes import Recipe, read_recipe, recipe_of

__all__ = ["Recipe", "build", "files_to_push", "push", "read_recipe", "recipe_of", "table_of_files"]
