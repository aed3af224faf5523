"""What lies on a disk: files written whole or not at all, and OpenAI's checkpoints, read without TensorFlow."""
