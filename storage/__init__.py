"""Files, local or gs://, for the trainer and the scorer."""
