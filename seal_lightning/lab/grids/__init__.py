"""The lab's second world: a tiny model that knows how grids are turned and recoloured (docs/arc.md)."""
