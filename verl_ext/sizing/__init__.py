"""What a configuration needs: parameters, memory of a GPU, operations and time of a step."""
