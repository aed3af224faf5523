"""What a number is worth: measures, probabilities, intervals and tests, baselines, and what a model looked at."""
