"""lmms-eval, unmodified, on the running service. Its accuracy is held to ours."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from smoothgate.bundled import DEMO
from smoothgate.engine.vllm_command import CHILD_SITE
from smoothgate_lab.demo.conversation import ONE_PICTURE
from tests.redteam.conftest import Picture, run, told
from tests.whole_service import Gate

TASKS = Path(__file__).parent / "lmms_eval_tasks"

pytestmark = [pytest.mark.engine, pytest.mark.long]


def test_lmms_eval_computes_the_accuracy_that_we_compute(
    gate: Gate, tool_python: Path, pictures: Sequence[Picture], tmp_path: Path
) -> None:
    asked = [(picture, question) for picture in pictures for question in ONE_PICTURE]
    folder = tmp_path / "pictures" / "test"
    folder.mkdir(parents=True)
    rows = []
    for number, (picture, question) in enumerate(asked):
        name = f"{number:03}.png"
        shutil.copy(picture.path, folder / name)
        row = {
            "file_name": name,
            "question": question.phrasings[0],
            "answer": question.answer(picture.facts),
        }
        rows.append(row)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    command: list[str | Path] = [tool_python, "-m", "lmms_eval", "eval", "--model", "openai"]
    command += [
        "--model_args",
        f"model={DEMO.served_name},base_url={gate.url}/v1,api_key=none,num_concurrent=2",
    ]
    command += ["--include_path", TASKS, "--tasks", "digit_scenes", "--batch_size", "1"]
    command += ["--output_path", "told", "--log_samples"]
    # PyPI's torchvision is a CUDA build, and the tools have a torch for CPUs (smoothgate.compat).
    output = run(command, tmp_path, PYTHONPATH=str(CHILD_SITE))

    # lmms-eval ends with 0 whatever happens.
    [results] = list(tmp_path.glob("told/*/*_results.json")) or pytest.fail(output)
    [samples] = tmp_path.glob("told/*/*_samples_digit_scenes.jsonl")
    accuracy = json.loads(results.read_text())["results"]["digit_scenes"]["exact_match,none"]
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    theirs = sorted(lines, key=lambda line: line["doc_id"])
    assert [(each["input"], each["target"]) for each in theirs] == [
        (row["question"], row["answer"]) for row in rows
    ]
    ours = [told(gate, question.phrasings[0], picture) for picture, question in asked]
    assert [each["filtered_resps"] for each in theirs] == ours
    right = sum(answer == row["answer"] for answer, row in zip(ours, rows, strict=True))
    assert accuracy == pytest.approx(right / len(rows))
    assert right > len(rows) / 2
