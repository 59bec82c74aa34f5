"""Recipes: what they may say (schema), how they are read (load), and how their mistakes are told (messages).

The recipes that come with fx are YAML files in recipes/; this package reads them.
"""
