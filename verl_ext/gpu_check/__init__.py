"""`verl-ext doctor gpu`: what cannot be tested without a GPU, in one command for people who have one."""
