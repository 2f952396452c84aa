"""From verl's checkpoints to Hugging Face folders that transformers, vLLM and `verl-ext eval` load."""
