"""/metrics in Prometheus' text format, under SGLang's names."""

import time

from engine.servers.embedded.served import ServedModel


def metrics_text(served: ServedModel) -> str:
    """One sample per metric, labelled with the model's path."""
    scheduler = served.scheduler
    counters, limits = scheduler.counters, served.limits
    used = scheduler.used_tokens
    hit_rate = counters.cached_tokens / max(1, counters.prompt_tokens)
    frozen = len(scheduler.running) if scheduler.paused else 0
    gauges = {
        "num_running_reqs": len(scheduler.running) - frozen,
        "num_queue_reqs": len(scheduler.waiting),
        "num_paused_reqs": frozen,
        "token_usage": used / limits.max_total_tokens,
        "cache_hit_rate": hit_rate,
        "kv_used_tokens": used,
        "kv_available_tokens": limits.max_total_tokens - used,
        "max_total_num_tokens": limits.max_total_tokens,
    }
    totals = {
        "prompt_tokens_total": counters.prompt_tokens,
        "generation_tokens_total": counters.generated_tokens,
        "cached_tokens_total": counters.cached_tokens,
        "num_requests_total": counters.requests,
        "num_aborted_requests_total": counters.aborted,
        "num_retracted_reqs_total": counters.retracted,
        "weight_updates_total": counters.weight_updates,
        "busy_seconds_total": counters.busy_s,
        # Beyond SGLang's: what work costs here (`launch.simulation`).
        "process_cpu_seconds_total": time.process_time(),
        "prefills_total": counters.prefills,
        "prefill_cpu_seconds_total": counters.prefill_cpu_s,
        "decode_steps_total": counters.decode_steps,
        "decode_cpu_seconds_total": counters.decode_cpu_s,
        "decode_rows_squared_total": counters.rows_squared,
        "decode_rows_cpu_seconds_total": counters.rows_cpu_s,
    }
    label = str(served.model_dir).replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    lines: list[str] = []
    for kind, values in (("gauge", gauges), ("counter", totals)):
        for name, value in values.items():
            lines.append(f"# TYPE sglang:{name} {kind}")
            lines.append(f'sglang:{name}{{model_name="{label}"}} {value}')
    return "\n".join(lines) + "\n"
