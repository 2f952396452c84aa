"""One dumped batch through several policy losses: ``verl-ext view losses``."""
