"""Trains an image classifier under tf.distribute and exports it as a SavedModel."""
