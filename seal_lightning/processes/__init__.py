"""The processes of a run: signals, standard streams, ranks, signs of life."""
