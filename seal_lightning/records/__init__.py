"""Rollouts on disk: the journal, the SEAL authors' files, and what is computed from either anew."""
