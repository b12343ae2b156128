"""Trains a Fashion-MNIST classifier under tf.distribute and exports it as a SavedModel."""
