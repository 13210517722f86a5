"""The learning rate as a pure function of the step: linear warm-up, then exponential decay."""

from __future__ import annotations

from export.train.config import TrainConfig


def scheduled_rate(step: int, config: TrainConfig) -> float:
    """The rate of a step, counted from 1, by the configured schedule.

    warmup-decay: warm-up, then decay. exponential-decay: decay from the first step. constant: no change.
    """
    if config.schedule == "constant":
        return config.learning_rate
    return learning_rate(
        step,
        base=config.learning_rate,
        warmup_steps=config.warmup_steps if config.schedule == "warmup-decay" else 0,
        decay_rate=config.decay_rate,
        decay_steps=config.decay_steps,
    )


def learning_rate(step: int, *, base: float, warmup_steps: int, decay_rate: float, decay_steps: int) -> float:
    """The rate of a step, counted from 1.

    It grows by base / warmup_steps a step until it reaches `base` at step `warmup_steps`. Then it decays
    continuously, by the factor `decay_rate` every `decay_steps` steps.
    """
    if step < warmup_steps:
        return base * step / warmup_steps
    decayed: float = base * decay_rate ** ((step - warmup_steps) / decay_steps)
    return decayed
