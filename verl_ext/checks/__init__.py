"""Everything that can be wrong with a composed configuration, found without a GPU and without Ray."""
