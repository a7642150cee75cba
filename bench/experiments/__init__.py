"""Experiments with published figures, and what came of them here."""
