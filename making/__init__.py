"""How the weights of the lab were made, from a checkout of the project: `python -m making.towns`, `making.grids`."""
