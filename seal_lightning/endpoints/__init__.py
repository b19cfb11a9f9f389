"""Models behind an OpenAI-compatible endpoint, as judge, as editor and as server of the policy."""

from seal_lightning.endpoints.endpoint import Endpoint

__all__ = ["Endpoint"]
