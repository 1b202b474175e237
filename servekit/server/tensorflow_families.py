"""Names and types of the metric families that TensorFlow itself registers, as the page of a 2.19.1 shows them."""

from __future__ import annotations


def families() -> list[tuple[str, str]]:
    """(name, `counter` or `gauge` or `histogram`)"""
    return [(name, kind) for kind, text in _NAMES.items() for name in _expanded(text)]


def _expanded(text: str) -> list[str]:
    """Lines of `prefix name name ...`; the prefix is put before each of its names."""
    split = (line.split() for line in text.strip().splitlines())
    return [f":{prefix}:{name}" for prefix, *names in split for name in names]


_NAMES = {
    "counter": """
jax:pjrt pjrt_executable_execution_time_usecs pjrt_executable_executions
tensorflow:compiler:tf2xla:xla_compiler compilation_status
tensorflow:core aot_bef_mlir_load_count bfc_allocator_delay direct_session_runs eager_client_error_count
tensorflow:core function_graph_optimization_time_usecs graph_build_calls graph_build_time_usecs
tensorflow:core graph_optimization_cache_failure_count graph_optimization_cache_hit_count
tensorflow:core graph_optimization_cache_load_count graph_optimization_cache_miss_count
tensorflow:core graph_optimization_saving_time_usec graph_optimization_usecs graph_run_time_usecs graph_runs
tensorflow:core graph_unused_outputs mlir_function_pass_fallback_count mlir_function_pass_graph_conversion_count
tensorflow:core mlir_graph_optimization_pass_fallback_count mlir_v1_compat_graph_conversion_count
tensorflow:core persistent_cache_load_count test_counters tf1_features_by_graph_count tf_function_compile
tensorflow:core tf_mlir_bridge_first_phase_v2_count tf_top_level_jit_compilation xla_compilation_time_usecs
tensorflow:core xla_compilations xla_launch_counter
tensorflow:core:checkpoint:sharding callback_duration num_checkpoint_shards_written
tensorflow:core:checkpoint:write checkpoint_size training_time_saved
tensorflow:core:saved_model:read api count
tensorflow:core:saved_model:write api count
tensorflow:core:tf2xla graph_compilation_failed_op_count mlir_second_phase_failed_legalization_op_count
tensorflow:core:tf2xla mlir_second_phase_non_static_op_count mlir_second_phase_non_static_op_skip_count
tensorflow:core:tf2xla tf_quant_op_count
tensorflow:core:tf2xla:api:v1 tf_dialect_to_executor_dialect_status
tensorflow:core:tf2xla:api:v2 dynamism_function_counter dynamism_op_counter phase2_compilation_status
tensorflow:core:tf2xla:api:v2 tf_dialect_to_executor_dialect_status
tensorflow:core:tf2xla:internal:inference tpu_partitioned_call
tensorflow:core:tf2xla:v1 mlir_failed_xla_legalize_tf_count mlir_failed_xla_legalize_tf_pass_count
tensorflow:data autotune autotune_stopping_criteria bytes_consumed bytes_fetched bytes_produced bytes_read debug
tensorflow:data dense_feature elements error experiment experiment_live experiment_opt_in experiment_opt_out
tensorflow:data fetch_op file_logger_attempts file_logger_attempts_num_files file_logger_errors
tensorflow:data file_logger_errors_num_files filename fingerprint framework_type iterator_busy iterator_lifetime
tensorflow:data optimization ragged_feature sparse_feature
tensorflow:data:autoshard_rewrite_batch_size eligible reason
tensorflow:data:service client_iterators compression cross_trainer_cache_queries data_transfer_protocol_error
tensorflow:data:service data_transfer_protocol_fallback data_transfer_protocol_used
tensorflow:data:service data_transfer_protocol_used_by_nature jobs_created snapshot_bytes_committed snapshot_ops
tensorflow:data:service workers_created
tensorflow:lite:quantization:transforms stats
tensorflow:rpc:service response_cache_hits
tensorflow:tpu op_error_count variable_distribution_time xla_spmd_cores_per_replica
xla:service:cpu compiler_stacktrace_count
""",
    "gauge": """
coordination_service:agent enabled
pjrt:compiler is_compiling_computation is_compiling_module
pjrt:gpu free_gpu_system_memory
tensorflow:api:op using_fake_quantization
tensorflow:config:experimental enable_mlir_bridge_gauge_v1 enable_mlir_bridge_gauge_v2
tensorflow:core eager_context_created session_created use_auto_outside_compilation use_dynamic_padding_gauge
tensorflow:core worker_session_created
tensorflow:core:checkpoint:sharding callback_description
tensorflow:core:saved_model found_fingerprint_on_load
tensorflow:core:saved_model:read fingerprint path path_and_singleprint
tensorflow:core:saved_model:write fingerprint path path_and_singleprint
tensorflow:data autoshard model pipeline_processing_time
tensorflow:data:service cross_trainer_cache_size_bytes optimal_number_of_workers
""",
    "histogram": """
tensorflow:core graph_pending_queue_length_histogram graph_run_input_tensor_bytes graph_run_output_tensor_bytes
tensorflow:core graph_run_time_usecs_histogram
tensorflow:core:checkpoint:read read_durations
tensorflow:core:checkpoint:write async_write_durations write_durations
tensorflow:data buffered_vs_budget_ratio getelement_duration getnext_duration iterator_gap used_vs_budget_ratio
""",
}
