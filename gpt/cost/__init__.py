"""What a model costs: its tensors, a training step's memory, and what can be computed once and not every epoch."""
