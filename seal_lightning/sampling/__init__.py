"""Where texts come from: self-edits (sampled, from an endpoint, or written beforehand), and batched generation."""

from seal_lightning.sampling.endpoint import EndpointSampler
from seal_lightning.sampling.imported import ImportedEdits
from seal_lightning.sampling.policy_writer import PolicyWriter
from seal_lightning.sampling.sampler import LocalSampler, Sample, Sampler, SampleRequest, WrittenEdits

__all__ = [
    "EndpointSampler",
    "ImportedEdits",
    "LocalSampler",
    "PolicyWriter",
    "Sample",
    "SampleRequest",
    "Sampler",
    "WrittenEdits",
]
