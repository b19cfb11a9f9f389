"""How the weights of the lab and the curves of the grader are made; no run needs it."""
