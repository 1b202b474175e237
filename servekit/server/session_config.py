"""How versions are to run, put together from the flags: the sessions' ConfigProto, BatchingParameters."""

from __future__ import annotations

from typing import Any

from servekit.errors import Code, StatusError
from servekit.protos import messages
from servekit.server.options import Options
from servekit.server.text_proto import read_message


def batching_parameters(options: Options) -> Any:
    """The BatchingParameters message of all models, or None without --enable_batching.

    Raises StatusError for a file that cannot be read, or that is given without --enable_batching.
    """
    if options.enable_batching:
        if options.batching_parameters_file:
            return read_message(options.batching_parameters_file, messages.BatchingParameters)
        return messages.BatchingParameters()
    if options.batching_parameters_file:
        raise StatusError(
            Code.INVALID_ARGUMENT,
            "server_options.batching_parameters_file is set without setting server_options.enable_batching to true.",
        )
    return None


def session_config(options: Options) -> Any:
    """--tensorflow_session_config_file first; the parallelism and GPU flags, where given, overwrite its fields.

    Raises StatusError for a file that cannot be read and for parallelism given twice.
    """
    config = messages.ConfigProto()
    if options.tensorflow_session_config_file:
        config = read_message(options.tensorflow_session_config_file, messages.ConfigProto)
    intra, inter = options.tensorflow_intra_op_parallelism, options.tensorflow_inter_op_parallelism
    both = options.tensorflow_session_parallelism
    if intra > 0 and inter > 0 and both > 0:
        raise StatusError(
            Code.INVALID_ARGUMENT,
            "Either configure server_options.tensorflow_session_parallelism or "
            "(server_options.tensorflow_intra_op_parallelism, server_options.tensorflow_inter_op_parallelism) "
            "separately. You cannot configure all.",
        )
    if intra > 0 or inter > 0:
        config.intra_op_parallelism_threads, config.inter_op_parallelism_threads = intra, inter
    elif both > 0:
        config.intra_op_parallelism_threads = config.inter_op_parallelism_threads = both
    if options.per_process_gpu_memory_fraction > 0:
        config.gpu_options.per_process_gpu_memory_fraction = options.per_process_gpu_memory_fraction
    return config
