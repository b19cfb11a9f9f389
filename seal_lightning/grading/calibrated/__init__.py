"""The default grader: features of an answer beside its golds, and curves that make a score of them."""
