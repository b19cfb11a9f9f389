"""Where texts come from: self-edits (sampled, from an endpoint, or written beforehand) and closed-book answers."""

from seal_lightning.sampling.answering import Answerer, Answers, Asked, LocalAnswerer, PolicyWriter
from seal_lightning.sampling.outside import EndpointSampler, ImportedEdits
from seal_lightning.sampling.sampler import LocalSampler, Sample, Sampler, SampleRequest, WrittenEdits
from seal_lightning.sampling.server import AdapterServer, ServerAnswerer, ServerSampler

__all__ = [
    "AdapterServer",
    "Answerer",
    "Answers",
    "Asked",
    "EndpointSampler",
    "ImportedEdits",
    "LocalAnswerer",
    "LocalSampler",
    "PolicyWriter",
    "Sample",
    "SampleRequest",
    "Sampler",
    "ServerAnswerer",
    "ServerSampler",
    "WrittenEdits",
]
