"""A complete repository folder from a recipe or a saved model, or a Space of the demo, and its way to the Hub."""

from .building import build
from .pushing import files_to_push, push, table_of_files
from .recipes import Recipe, read_recipe, recipe_of
from .space import build_space

__all__ = ["Recipe", "build", "build_space", "files_to_push", "push", "read_recipe", "recipe_of", "table_of_files"]
