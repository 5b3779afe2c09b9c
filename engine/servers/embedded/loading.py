"""From the command line to served models."""

import argparse

import torch

from engine.errors import ConfigError
from engine.servers.embedded.scheduler import Limits
from engine.servers.embedded.served import ServedModel, context_length_of


def load_all(options: argparse.Namespace) -> list[tuple[int, ServedModel]]:
    """(port, model) for every --serve. Raises ConfigError."""
    ports = [port for port, _ in options.serve]
    if len(set(ports)) < len(ports):
        raise ConfigError(f"--serve: a port is named twice: {ports}")
    models = []
    for index, (port, model_dir) in enumerate(options.serve):
        own = context_length_of(model_dir)
        limits = Limits(
            max_running_requests=options.max_running_requests,
            max_total_tokens=options.max_total_tokens,
            context_length=min(options.context_length or own, own),
            max_queued_requests=options.max_queued_requests,
        )
        served = ServedModel(
            model_dir,
            limits,
            version=options.weight_version,
            dtype=getattr(torch, options.dtype),
            device=options.device,
            seed=options.seed + index,
        )
        models.append((port, served))
    return models
