"""Scores image collections of any size with a SavedModel, as an Apache Beam pipeline."""
