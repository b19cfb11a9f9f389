"""What keeps sequences and adapters of one batch apart is probed on the model itself, never assumed from its name.

A batch is only worth its speed if every row in it is what it would be alone. Whether it is depends on the model, its
attention, the device and the layers with adapters: attention may ignore where a packed sequence begins, a state may run
on through padding, a layer may see its tokens in another order. So a few random tokens are trained on and continued in
every way from the fastest on, until one gives what one row at a time gives. What the probe cannot see on a few tokens
(windows of attention, rotary embeddings that change with the longest row) is read from the model's configuration.
"""

from seal_lightning.inner_loop.isolation.answering import PADDED, AnsweringWay, answering_way
from seal_lightning.inner_loop.isolation.training import BatchLoss, TrainingWay, training_way

__all__ = ["PADDED", "AnsweringWay", "BatchLoss", "TrainingWay", "answering_way", "training_way"]
