"""DeepSpeed ZeRO for the M-step, and how a round starts a strategy's optimizer afresh.

`ZeROStrategy` is Lightning's DeepSpeed strategy with three differences: it also runs on a CPU over gloo, so that the
whole path is tested without a GPU; the model is built whole by every process and then partitioned; and a checkpoint is
one plain file with whole tensors in torch's own AdamW layout, so that it is read with `weights_only`, resumes exactly,
and fits any number of ranks and any stage. What is trained is gathered on rank 0 for it: little with LoRA.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators.cpu import CPUAccelerator
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, Strategy
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from seal_lightning.errors import ConfigError
from seal_lightning.fit.checkpoint_file import Checkpoint
from seal_lightning.models.beside import is_quantised
from seal_lightning.models.partitioned import is_partitioned, whole
from seal_lightning.stamps.arguments import Remembers

MOMENTS = ("exp_avg", "exp_avg_sq")


def restart_optimizer(trainer: Trainer) -> None:
    """A new optimizer and schedule for the next round, after the policy's adapter was merged and drawn anew."""
    if isinstance(trainer.strategy, ZeROStrategy):
        trainer.strategy.restart_optimizer()
    else:
        trainer.strategy.setup_optimizers(trainer)


def restart_schedule(trainer: Trainer) -> None:
    """Begin the learning rates of a round's M-step, whose number of steps is known only now."""
    for config in trainer.strategy.lr_scheduler_configs:
        if not isinstance(scheduler := config.scheduler, LambdaLR):  # of a module of the user's own
            continue
        scheduler.last_epoch = 0
        groups = scheduler.optimizer.param_groups
        for group, peak, factor in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
            group["lr"] = peak * factor(0)


def check_whole(strategy: Strategy) -> None:
    """Raise `ConfigError` where a strategy would spread the weights that a generator reads over the ranks."""
    if isinstance(strategy, ZeROStrategy) and strategy.zero_stage_3:
        raise ConfigError(
            "trainer.strategy.stage must be 1 or 2 where a generator is trained, got 3: every process reads the whole "
            "base model"
        )


def expect_spared(strategy: Strategy) -> None:
    """Tell DDP that some trained weights may have no gradient, or it waits for them; what the user set stays."""
    if isinstance(strategy, DDPStrategy):
        strategy._ddp_kwargs.setdefault("find_unused_parameters", True)


class ZeROStrategy(DeepSpeedStrategy, Remembers):
    """DeepSpeed ZeRO on CUDA devices, or on CPUs over gloo.

    Args:
        stage: 1 spreads the optimizer's state over the ranks, 2 also gradients, 3 also the weights.
        offload_optimizer: Keep the optimizer's state in CPU memory.
        offload_parameters: Keep the weights in CPU memory between uses (stage 3).
        persistence_threshold: Stage 3 leaves parameters with fewer elements whole.
    """

    def __init__(
        self,
        stage: int = 2,
        *,
        offload_optimizer: bool = False,
        offload_parameters: bool = False,
        persistence_threshold: int = 100_000,
        **kwargs: Any,
    ) -> None:
        if stage not in (1, 2, 3):
            raise ConfigError(f"trainer.strategy.stage must be 1, 2 or 3, got {stage}")
        if offload_parameters and stage != 3:
            raise ConfigError("trainer.strategy.offload_parameters needs stage 3, which is what spreads parameters")
        super().__init__(
            stage=stage,
            offload_optimizer=offload_optimizer,
            offload_parameters=offload_parameters,
            **{"logging_batch_size_per_gpu": 1, **kwargs},
        )
        assert isinstance(self.config, dict)
        # torch's AdamW everywhere: DeepSpeed's own CPU Adam would have to be compiled first
        self.config |= {"zero_force_ds_cpu_optimizer": False, "zero_allow_untested_optimizer": True}
        if stage == 3:
            self.config["zero_optimization"]["stage3_param_persistence_threshold"] = persistence_threshold

    # -- on a CPU, and with a model that is built whole ---------------------------------------------------------------

    def setup_environment(self) -> None:
        if isinstance(self.accelerator, CPUAccelerator):
            if "deepspeed" not in sys.modules:
                os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed looks only once, when it is imported
            import deepspeed

            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # it would call a compiler; gloo will do
            self._process_group_backend = "gloo"
            Strategy.setup_environment(self)
            self.setup_distributed()
        else:
            super().setup_environment()

    def setup_distributed(self) -> None:
        if not isinstance(self.accelerator, CPUAccelerator):
            super().setup_distributed()
            return
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    @contextmanager
    def model_sharded_context(self) -> Iterator[None]:  # type: ignore[override]
        yield  # transformers cannot build every model in pieces; DeepSpeed partitions the whole one

    def _setup_model_and_optimizer(
        self, model: nn.Module, optimizer: Optimizer | None, lr_scheduler: Any = None
    ) -> tuple[object, object]:
        import deepspeed

        if self.zero_stage_3 and is_quantised(model):
            raise ConfigError(
                "trainer.strategy.stage must be 1 or 2 where model.source is quantised, got 3: packed weights cannot "
                "be spread over the ranks"
            )
        index = self.root_device.index
        engine, zero_optimizer, _, _ = deepspeed.initialize(
            args=argparse.Namespace(device_rank=-1 if index is None else index),  # Lightning would pass a CPU's None
            config=self.config,
            model=model,
            model_parameters=[value for value in model.parameters() if value.requires_grad],  # type: ignore[arg-type]
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            dist_init_required=False,
        )
        return engine, zero_optimizer

    def _initialize_deepspeed_inference(self, model: nn.Module) -> None:
        self.model_to_device()  # nothing is trained: every rank answers with the whole policy

    def backward(
        self, closure_loss: torch.Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        # Lightning has divided the loss by the accumulation already; DeepSpeed would do it once more
        return super().backward(closure_loss, optimizer, *args, **kwargs, scale_wrt_gas=False)

    # Units of work run beside the engine: its forward pass would fetch weights that only the M-step needs.

    def validation_step(self, *args: object, **kwargs: object) -> STEP_OUTPUT:
        assert self.lightning_module is not None
        return self.lightning_module.validation_step(*args, **kwargs)

    def test_step(self, *args: object, **kwargs: object) -> STEP_OUTPUT:
        assert self.lightning_module is not None
        return self.lightning_module.test_step(*args, **kwargs)

    def predict_step(self, *args: object, **kwargs: object) -> STEP_OUTPUT:
        assert self.lightning_module is not None
        return self.lightning_module.predict_step(*args, **kwargs)

    # -- checkpoints: one file ---------------------------------------------------------------------------------------

    @property
    def zero_optimizer(self) -> Any:
        """DeepSpeed's optimizer around torch's."""
        return self.optimizers[0]

    def trained(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name, in the optimizer's order."""
        assert self.lightning_module is not None
        return {name: value for name, value in self.lightning_module.named_parameters() if value.requires_grad}

    def lightning_module_state_dict(self) -> dict[str, torch.Tensor]:
        """The trained parameters, whole and in full precision; a collective."""
        from deepspeed.utils import safe_get_full_fp32_param

        return {name: _cpu(safe_get_full_fp32_param(value)) for name, value in self.trained().items()}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, object]:
        """As torch's AdamW would give it; a collective."""
        from deepspeed.utils import safe_get_full_optimizer_state

        inner = self.zero_optimizer.optimizer
        steps = [state["step"] for state in inner.state.values() if "step" in state]
        trained = list(self.trained().values())
        state = {}
        if steps:  # none before the first step
            for number, parameter in enumerate(trained):
                moments = {key: _cpu(safe_get_full_optimizer_state(parameter, key)) for key in MOMENTS}
                state[number] = {"step": torch.as_tensor(steps[0], dtype=torch.float32).cpu().clone(), **moments}
        options = {key: value for key, value in inner.param_groups[0].items() if key != "params"}
        return {"state": state, "param_groups": [{**options, "params": list(range(len(trained)))}]}

    def save_checkpoint(self, checkpoint: dict, filepath: str | Path, storage_options: object = None) -> None:
        DDPStrategy.save_checkpoint(self, checkpoint, filepath, storage_options)  # type: ignore[arg-type]

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> Checkpoint:
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only=True)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    @torch.no_grad()
    def load_model_state_dict(self, checkpoint: Checkpoint, strict: bool = True) -> None:
        assert self.lightning_module is not None
        saved = checkpoint["state_dict"]
        for name, parameter in self.lightning_module.named_parameters():
            if name in saved:
                with whole([parameter], write=True):
                    parameter.copy_(saved[name].to(parameter.device))
                if self.optimizers:
                    _set(parameter, saved[name].float())

    @torch.no_grad()
    def load_optimizer_state_dict(self, checkpoint: Checkpoint) -> None:
        (saved,) = checkpoint["optimizer_states"]
        inner = self.zero_optimizer.optimizer
        for group in inner.param_groups:
            group |= {key: value for key, value in saved["param_groups"][0].items() if key != "params"}
        if not saved["state"]:
            return
        zero = self.zero_optimizer
        parts = zero.fp32_partitioned_groups_flat if self.zero_stage_3 else zero.single_partition_of_fp32_groups
        for flat in parts:  # this rank's part of what is trained
            moments = {key: torch.zeros_like(flat) for key in MOMENTS}
            inner.state[flat] = {"step": saved["state"][0]["step"].clone(), **moments}
        if not self.zero_stage_3:
            zero._lazy_init_hp_params_optimizer_state()  # as after a step
        for number, parameter in enumerate(self.trained().values()):
            for key in MOMENTS:
                _set(parameter, saved["state"][number][key], key)

    # -- rounds --------------------------------------------------------------------------------------------------------

    def restart_optimizer(self) -> None:
        """Start afresh: no moments, step 0, the schedule at its start, and master weights that are the weights."""
        self.zero_optimizer.refresh_fp32_params()
        inner = self.zero_optimizer.optimizer
        for state in inner.state.values():  # in place: DeepSpeed holds views of these tensors
            for tensor in state.values():
                tensor.zero_()
        for config in self.lr_scheduler_configs:
            scheduler = config.scheduler
            for group in inner.param_groups:
                group["lr"] = group["initial_lr"]
            config.scheduler = type(scheduler)(inner, scheduler.lr_lambdas[0])  # type: ignore[union-attr,call-arg]


def _cpu(tensor: torch.Tensor | None) -> torch.Tensor:
    assert tensor is not None, "DeepSpeed does not know this parameter"
    return tensor.detach().cpu()


def _set(parameter: nn.Parameter, value: torch.Tensor, key: str | None = None) -> None:
    """Write the master weights of a parameter, or a moment of its optimizer state, where this rank holds them."""
    from deepspeed.utils import (
        safe_get_local_fp32_param,
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    value = value.to(parameter.device)
    if not is_partitioned(parameter):
        safe_set_full_optimizer_state(parameter, value, key) if key else safe_set_full_fp32_param(parameter, value)
        return
    size = safe_get_local_fp32_param(parameter).numel()  # rank r holds elements r * size to (r + 1) * size, then zeros
    start = torch.distributed.get_rank() * size
    own = torch.zeros(size, device=value.device)
    rest = value.flatten()[start : start + size]
    own[: rest.numel()] = rest
    safe_set_local_optimizer_state(parameter, own, key) if key else safe_set_local_fp32_param(parameter, own)
