"""Figures and tables from rollouts."""
