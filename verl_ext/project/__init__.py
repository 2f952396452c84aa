"""`verl-ext init`: a new project with a user's own data and reward function."""
