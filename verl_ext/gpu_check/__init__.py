"""`verl-ext gpu-check`: what cannot be tested without a GPU, in one command for people who have one."""
