"""Inference: generation, evaluation of an arm, prediction."""
