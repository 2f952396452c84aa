"""From what a person types to verl's composed configuration: groups, rows, presets."""
