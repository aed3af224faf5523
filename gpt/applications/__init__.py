"""Longer jobs made of the story's parts: pretrain, teach a model to write, a table of your own, several adapters."""
