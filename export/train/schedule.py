"""The learning rate as a pure function of the step: linear warm-up, then exponential decay."""

from __future__ import annotations

from export.train.config import TrainConfig


def scheduled_rate(step: int, config: TrainConfig) -> float:
    """The rate of a step, counted from 1, by the schedule that the config names.

    warmup-decay: up, then down. exponential-decay: down from the first step on. constant: always the same.
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

    It grows by base / warmup_steps a step until it reaches `base` at step `warmup_steps`, and from there is
    multiplied by `decay_rate` every `decay_steps` steps, a little at each step.
    """
    if step < warmup_steps:
        return base * step / warmup_steps
    decayed: float = base * decay_rate ** ((step - warmup_steps) / decay_steps)
    return decayed
