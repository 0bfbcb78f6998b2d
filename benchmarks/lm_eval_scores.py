"""Scores of lm-evaluation-harness through our server beside transformers' own, on two small tasks, as a table.

Run it with a Python that has the harness, which the product does not need:

    python -m venv /somewhere && /somewhere/bin/pip install -c constraints.txt 'lm_eval[api,hf]' gguf
    /somewhere/bin/python benchmarks/lm_eval_scores.py --headway .venv/bin/headway --gguf ~/.cache/headway/demo/model.gguf
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

TASKS = Path(__file__).parent / "lm_eval"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--headway", required=True, help="the command headway")
    parser.add_argument("--gguf", required=True, type=Path, help="the model, for both")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        model = converted(options.gguf, Path(directory) / "model")
        tasks = placed_tasks(Path(directory) / "tasks")
        rows = {"transformers": scores("hf", f"pretrained={model},dtype=float32", tasks, is_chat=False)}
        rows["transformers, chat"] = scores("hf", f"pretrained={model},dtype=float32", tasks, is_chat=True)
        port = free_port()
        argv = [options.headway, "serve", str(options.gguf), "--served-model-name", "demo", "--dtype", "float32", "--max-model-len", "2048"]
        server = subprocess.Popen([*argv, "--host", "127.0.0.1", "--port", str(port)])
        try:
            wait_ready(f"http://127.0.0.1:{port}/ping", server)
            where = f"model=demo,base_url=http://127.0.0.1:{port}/v1"
            completions = f"{where}/completions,tokenizer={model},tokenizer_backend=huggingface,num_concurrent=8,max_length=2048"
            rows["headway, local-completions"] = scores("local-completions", completions, tasks, is_chat=False)
            rows["headway, local-chat-completions"] = scores(
                "local-chat-completions", f"{where}/chat/completions,num_concurrent=8", tasks, is_chat=True
            )
        finally:
            server.terminate()
            server.wait()
    print_table(rows)


def scores(backend: str, arguments: str, tasks: Path, *, is_chat: bool) -> dict[str, float]:
    """Metric -> score. Chats have no log-likelihoods, so they answer the questions alone."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    found = lm_eval.simple_evaluate(  # type: ignore[attr-defined]  # mypy takes the folder of tasks beside this file
        model=backend,
        model_args=arguments,
        device="cpu",
        tasks=["headway_questions"] if is_chat else ["headway_choices", "headway_questions"],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        apply_chat_template=is_chat,
        batch_size=1,
        bootstrap_iters=0,
    )
    assert found is not None
    results: dict[str, dict[str, Any]] = found["results"]
    return {
        f"{task}: {metric.partition(',')[0]}": value
        for task, metrics in results.items()
        for metric, value in metrics.items()
        if metric.endswith(",none") and isinstance(value, float) and "stderr" not in metric
    }


def converted(gguf: Path, target: Path) -> Path:
    """The model as transformers reads it: the same quantised weights, as float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    packed = {"gguf_file": gguf.name, "quantization_config": GgufConfig(dequantize=True)}
    AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **packed).save_pretrained(target)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)
    return target


def placed_tasks(target: Path) -> Path:
    """The harness takes absolute paths of data only."""
    shutil.copytree(TASKS, target)
    for task in target.glob("*.yaml"):
        task.write_text(task.read_text().replace("__DIR__", str(target)))
    return target


def wait_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    while server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise SystemExit(f"the server ended with status {server.returncode}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def print_table(rows: dict[str, dict[str, float]]) -> None:
    metrics = sorted({metric for row in rows.values() for metric in row})
    print(f"| | {' | '.join(metrics)} |")
    print(f"|---|{'---|' * len(metrics)}")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(f'{row[metric]:.4f}' if metric in row else '' for metric in metrics)} |")


if __name__ == "__main__":
    main()
