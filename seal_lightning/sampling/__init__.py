"""Writing texts with the policy: self-edits (sampled, or written beforehand) and batched generation."""

from seal_lightning.sampling.sampler import LocalSampler, Sample, Sampler, SampleRequest, WrittenEdits

__all__ = ["LocalSampler", "Sample", "SampleRequest", "Sampler", "WrittenEdits"]
