"""`seal sweep --over KEY=VALUE,VALUE --seeds N`: settings and seeds beside each other, and what they come to together.

    grid (which runs, and whether all can start) -> running (seal fit, some at a time) -> summary (table and figure)

Each run is a `seal fit` in a process and a folder of its own, so everything that works on a run works on these. The
same command goes on where a sweep was stopped. Left out: a search. What comes next is for a person to decide, or for a
package that starts `seal fit` itself (docs/sweep.md).
"""
