"""The lab's third world: a tiny model that knows how grids get a border or grow (docs/arc.md)."""
