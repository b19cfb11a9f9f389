"""Models behind an OpenAI-compatible endpoint, as judge, as editor and as server of the policy."""
