"""Figures against peers in the same run; never timed assertions."""
