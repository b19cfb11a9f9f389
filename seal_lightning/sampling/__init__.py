"""Where texts come from: self-edits (sampled, from an endpoint, or written beforehand) and closed-book answers."""

from seal_lightning.sampling.answering import Answerer, Answers, Asked, LocalAnswerer
from seal_lightning.sampling.endpoint import EndpointSampler
from seal_lightning.sampling.imported import ImportedEdits
from seal_lightning.sampling.policy_writer import PolicyWriter
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
