"""What the engine relies on in a rollout server's HTTP protocol.

Runs against the embedded server, and against a real SGLang where there is one (`conftest.py`).
"""

import http.client
import json
import uuid
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.contract.asking import Stream
from tests.engine.server_process import (
    CONTEXT,
    KEY,
    body_of,
    generate,
    in_background,
    load_of,
    request,
    shared_server,
    until,
)
from tests.engine.tiny_models import IM_END, IM_START, IMAGE_PAD, VISION_END, VISION_START, picture

TEXT = (IM_START, 5, 6, 7, 40, 41)
WITH_IMAGE = (IM_START, 5, VISION_START, IMAGE_PAD, VISION_END, 10, 11)
LONG = {"max_new_tokens": 1000, "ignore_eos": True}


def post(url: str, path: str, body: Any) -> tuple[int, Any]:
    return request(url, path, body)


def start_long(url: str, rid: str, ids: tuple[int, ...] = TEXT) -> Any:
    """A request that runs for as long as any test needs; a future of (status, answer)."""
    return in_background(lambda: post(url, "/generate", body_of(ids, rid=rid, **LONG)))


# -- answers ---------------------------------------------------------------------------------------


def test_an_answer_has_ids_logprobs_and_its_version(url: str) -> None:
    answer = generate(url, TEXT, max_new_tokens=9, ignore_eos=True, rid="0123456789abcdef")
    meta = answer["meta_info"]
    assert isinstance(answer["text"], str)
    assert len(answer["output_ids"]) == meta["completion_tokens"] == 9
    assert meta["id"] == "0123456789abcdef"
    assert meta["finish_reason"] == {"type": "length", "length": 9}
    assert meta["prompt_tokens"] == len(TEXT)
    assert [item[1] for item in meta["output_token_logprobs"]] == answer["output_ids"]
    assert all(item[0] <= 0 and item[2] is None for item in meta["output_token_logprobs"])
    assert meta["weight_versions"] == [{"version": meta["weight_version"], "start": 0, "end": 9}]
    assert meta["num_retractions"] == 0
    assert meta["e2e_latency"] > 0
    assert "image_tokens" not in meta


def test_the_stop_token_is_part_of_the_output(url: str) -> None:
    everything = list(range(512))
    answer = generate(url, TEXT, stop_token_ids=everything, max_new_tokens=5)
    (token,) = answer["output_ids"]
    assert answer["meta_info"]["finish_reason"] == {"type": "stop", "matched": token}
    assert answer["text"] == ""


def test_a_stop_string_ends_the_text_but_not_the_ids(url: str) -> None:
    letters = [chr(code) for code in range(97, 123)]
    answer = generate(url, TEXT, stop=letters, max_new_tokens=400, ignore_eos=True)
    matched = answer["meta_info"]["finish_reason"].get("matched")
    assert matched in letters
    assert matched not in answer["text"]
    assert answer["output_ids"]


def test_an_image_counts_as_its_merged_patches(url: str) -> None:
    meta = generate(url, WITH_IMAGE, [picture(0)])["meta_info"]
    assert meta["image_tokens"] == 9
    assert meta["prompt_tokens"] == len(WITH_IMAGE) + 8


def test_an_image_may_be_a_data_uri_and_stand_alone(url: str) -> None:
    body = body_of(WITH_IMAGE, [picture(0)], temperature=0)
    plain = post(url, "/generate", body)[1]["output_ids"]
    body["image_data"] = "data:image/png;base64," + body["image_data"][0]
    assert post(url, "/generate", body)[1]["output_ids"] == plain


def test_images_without_placeholders_are_ignored(url: str) -> None:
    meta = generate(url, TEXT, [picture(0)])["meta_info"]
    assert meta["prompt_tokens"] == len(TEXT)


def test_a_placeholder_without_image_is_a_plain_token(url: str) -> None:
    assert generate(url, WITH_IMAGE)["meta_info"]["prompt_tokens"] == len(WITH_IMAGE)


def test_prompt_ids_come_back_as_given(url: str) -> None:
    odd = (200, 129, 255, 300, *TEXT)
    body = {**body_of(odd), "return_prompt_token_ids": True}
    assert post(url, "/generate", body)[1]["prompt_token_ids"] == list(odd)


def test_a_batch_keeps_its_order_and_ids(url: str) -> None:
    body = body_of(TEXT, max_new_tokens=3)
    body["input_ids"] = [list(TEXT), [*TEXT, 9], [*TEXT, 9, 10]]
    body["rid"] = [uuid.uuid4().hex for _ in range(3)]
    status, answers = post(url, "/generate", body)
    assert status == 200
    assert [answer["meta_info"]["id"] for answer in answers] == body["rid"]
    sizes = [answer["meta_info"]["prompt_tokens"] for answer in answers]
    assert sizes == [len(TEXT), len(TEXT) + 1, len(TEXT) + 2]


def test_n_samples_come_as_a_list_under_new_ids(url: str) -> None:
    status, answers = post(url, "/generate", body_of(TEXT, rid="mine", n=3, max_new_tokens=20))
    assert status == 200
    assert len({answer["meta_info"]["id"] for answer in answers} - {"mine"}) == 3
    assert len({tuple(answer["output_ids"]) for answer in answers}) == 3


def test_a_prompt_can_be_scored_without_generating(url: str) -> None:
    body = {**body_of(TEXT, max_new_tokens=0), "logprob_start_len": 0}
    status, answer = post(url, "/generate", body)
    assert status == 200
    items = answer["meta_info"]["input_token_logprobs"]
    assert [item[1] for item in items] == list(TEXT)
    assert items[0][0] is None
    assert all(item[0] < 0 for item in items[1:])


def test_a_stream_is_cumulative_and_says_when_it_is_done(url: str) -> None:
    stream = Stream(url, TEXT, max_new_tokens=30, ignore_eos=True)
    final = stream.result()["output_ids"]
    assert stream.content_type.startswith("text/event-stream")
    assert stream.is_done
    assert len(stream.chunks) > 1
    assert len(final) == 30
    for chunk in stream.chunks:
        length = len(chunk["output_ids"])
        assert chunk["output_ids"] == final[:length]
        assert len(chunk["meta_info"]["output_token_logprobs"]) == length
        assert (chunk["meta_info"]["finish_reason"] is None) == (length < 30)
        # Whose tokens they are is told at the end; before, whose weights are served now.
        assert ("weight_versions" in chunk["meta_info"]) == (length == 30)
        assert chunk["meta_info"]["weight_version"].isdecimal()


def test_a_stream_has_an_event_for_every_so_many_tokens(url: str) -> None:
    def num_events(interval: int) -> int:
        stream = Stream(url, TEXT, max_new_tokens=40, ignore_eos=True, stream_interval=interval)
        assert len(stream.result()["output_ids"]) == 40
        return len(stream.chunks)

    assert num_events(20) < 6 < num_events(1)


# -- bad questions ---------------------------------------------------------------------------------


def test_unknown_sampling_parameters_are_named_and_refused(url: str) -> None:
    status, answer = post(url, "/generate", body_of(TEXT, temprature=0.5))
    assert status == 400
    assert "temprature" in str(answer["error"])


def test_unknown_top_level_fields_are_ignored(url: str) -> None:
    assert post(url, "/generate", {**body_of(TEXT), "no_such_field": 1})[0] == 200


@pytest.mark.parametrize("prompt, new", [(CONTEXT + 1, 1), (CONTEXT - 10, 100)])
def test_too_long_is_refused(url: str, prompt: int, new: int) -> None:
    status, answer = post(url, "/generate", body_of([5] * prompt, max_new_tokens=new))
    assert status == 400
    assert str(CONTEXT) in answer["error"]["message"]


def test_an_id_in_flight_is_not_taken_twice(url: str) -> None:
    rid = uuid.uuid4().hex
    first = start_long(url, rid)
    until(lambda: load_of(url)[0] == 1)
    status, answer = post(url, "/generate", body_of(TEXT, rid=rid))
    assert status == 400
    assert rid in answer["error"]["message"]
    post(url, "/abort_request", {"rid": rid})
    assert first.result(30)[0] == 200


# -- control ---------------------------------------------------------------------------------------


def test_abort_gives_the_partial_output_and_matches_by_prefix(url: str) -> None:
    futures = {rid: start_long(url, rid) for rid in ("req-1", "req-10", "req-2")}
    until(lambda: load_of(url)[0] == 3)
    for harmless in ("req", "", "no-such"):
        assert post(url, "/abort_request", {"rid": harmless}) == (200, "")
    assert load_of(url)[0] == 3
    post(url, "/abort_request", {"rid": "req-1"})
    for rid in ("req-1", "req-10"):
        status, answer = futures[rid].result(30)
        assert status == 200
        assert answer["meta_info"]["finish_reason"]["type"] == "abort"
        assert answer["meta_info"]["completion_tokens"] == len(answer["output_ids"]) < 1000
    assert not futures["req-2"].done()
    post(url, "/abort_request", {"abort_all": True})
    assert futures["req-2"].result(30)[1]["meta_info"]["finish_reason"]["type"] == "abort"


def test_a_client_that_leaves_frees_its_slot(url: str) -> None:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port)
    body = json.dumps(body_of(TEXT, **LONG))
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    connection.request("POST", "/generate", body, headers)
    until(lambda: load_of(url)[0] == 1)
    connection.close()
    until(lambda: load_of(url) == (0, 0))


def test_requests_made_in_a_pause_wait_for_its_end(url: str) -> None:
    assert post(url, "/pause_generation", {"mode": "retract"})[0] == 200
    waiting = in_background(lambda: post(url, "/generate", body_of(TEXT)))
    with pytest.raises(TimeoutError):
        waiting.result(1.0)
    assert post(url, "/flush_cache", {})[0] == 200
    assert post(url, "/continue_generation", {})[0] == 200
    assert waiting.result(30)[0] == 200


def test_retract_sends_running_requests_back_and_they_go_on(url: str) -> None:
    running = Stream(url, TEXT, **LONG)
    until(lambda: running.num_tokens >= 5)
    post(url, "/pause_generation", {"mode": "retract"})
    assert post(url, "/flush_cache", {})[0] == 200  # nothing holds the cache
    assert not running.is_done
    post(url, "/continue_generation", {})
    answer = running.result()
    assert len(answer["output_ids"]) == LONG["max_new_tokens"]
    assert answer["meta_info"]["num_retractions"] == 1


def test_in_place_freezes_and_keeps_the_cache(url: str) -> None:
    running = start_long(url, uuid.uuid4().hex)
    until(lambda: load_of(url)[0] == 1)
    post(url, "/pause_generation", {"mode": "in_place"})
    assert post(url, "/flush_cache", {})[0] == 400
    assert not running.done()
    post(url, "/continue_generation", {})
    assert len(running.result(60)[1]["output_ids"]) == LONG["max_new_tokens"]


def test_pause_abort_ends_everything_at_once(url: str) -> None:
    running = start_long(url, uuid.uuid4().hex)
    until(lambda: load_of(url)[0] == 1)
    assert post(url, "/pause_generation", {})[0] == 200
    assert running.result(30)[1]["meta_info"]["finish_reason"]["type"] == "abort"


def test_weights_need_a_session_and_only_one(url: str) -> None:
    update = {"names": [], "dtypes": [], "shapes": [], "group_name": "none"}
    status, answer = post(url, "/update_weights_from_distributed", update)
    assert (status, answer["success"]) == (400, False)
    assert post(url, "/begin_weight_update", {})[1]["success"] is True
    assert post(url, "/begin_weight_update", {})[1]["success"] is False
    assert post(url, "/update_weights_from_distributed", update)[1]["success"] is False
    assert post(url, "/end_weight_update", {})[1]["success"] is True
    assert generate(url, TEXT)["output_ids"]


def test_a_version_can_be_renamed(url: str) -> None:
    before = request(url, "/model_info")[1]["weight_version"]
    status, answer = post(url, "/update_weight_version", {"new_version": "77"})
    assert (status, answer["new_version"]) == (200, "77")
    assert generate(url, TEXT)["meta_info"]["weight_version"] == "77"
    post(url, "/update_weight_version", {"new_version": before})


def test_it_says_what_it_is_and_how_it_fares(url: str) -> None:
    for path in ("/ready", "/health", "/health_generate"):
        assert request(url, path)[0] == 200
    info = request(url, "/model_info")[1]
    assert info["has_image_understanding"] is True
    assert request(url, "/server_info")[1]["max_total_num_tokens"] > 0
    assert "sglang:generation_tokens_total" in request(url, "/metrics")[1]


# -- stricter than SGLang --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"input_ids": [512]},
        {"input_ids": [-1]},
        {"input_ids": []},
        {"input_ids": ["a"]},
        {"input_ids": [True]},
        {"input_ids": None},
        {"text": "both"},
        {"input_ids": list(WITH_IMAGE), "image_data": "bm8gaW1hZ2U="},
        {"input_ids": list(WITH_IMAGE), "image_data": "/etc/passwd"},
        {"input_ids": list(WITH_IMAGE), "image_data": "http://127.0.0.1:9/x.png"},
        {"input_ids": [*WITH_IMAGE, IMAGE_PAD], "image_data": "UE5H"},
        {"image_data": 5},
        {"rid": 5},
        {"stream": "yes"},
        {"logprob_start_len": 99},
        {"sampling_params": 3},
        {"sampling_params": {"temperature": -1}},
        {"sampling_params": {"temperature": float("nan")}},
        {"sampling_params": {"top_p": 0}},
        {"sampling_params": {"top_k": 0}},
        {"sampling_params": {"max_new_tokens": 1.5}},
        {"sampling_params": {"n": 10**9}},
        {"sampling_params": {"stop": [""]}},
        {"sampling_params": {"repetition_penalty": 1.2}},
        {"sampling_params": {"json_schema": "{}"}},
    ],
)
def test_nonsense_is_400_and_harms_nobody(change: dict[str, Any]) -> None:
    url = shared_server().urls[1]
    status, answer = post(url, "/generate", {**body_of(TEXT), **change})
    assert status == 400, answer
    assert answer["error"]["message"]
    assert generate(url, TEXT, max_new_tokens=2)["output_ids"]


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"[]", b"[" * 100_000])
def test_bodies_that_are_not_json_objects_are_400(raw: bytes) -> None:
    url = shared_server().urls[1]
    for path in ("/generate", "/pause_generation", "/begin_weight_update"):
        assert request(url, path, raw=raw)[0] == 400


@pytest.mark.parametrize(
    "path, body",
    [
        ("/pause_generation", {"mode": "sideways"}),
        ("/init_weights_update_group", {"master_address": 1}),
        ("/destroy_weights_update_group", {"group_name": "nobody"}),
        ("/end_weight_update", {}),
        ("/weights_checker", {"action": "dance"}),
        ("/update_weight_version", {}),
    ],
)
def test_senseless_control_is_400(path: str, body: dict[str, Any]) -> None:
    assert post(shared_server().urls[1], path, body)[0] == 400


def test_the_end_token_ends_unless_told_otherwise() -> None:
    url = shared_server().urls[1]
    answers = post(url, "/generate", body_of(TEXT, n=64, max_new_tokens=200))[1]
    stopped = [a for a in answers if a["meta_info"]["finish_reason"]["type"] == "stop"]
    assert stopped
    for answer in stopped:
        assert answer["output_ids"][-1] in (IM_END, IM_END - 2)
        assert not {IM_END, IM_END - 2} & set(answer["output_ids"][:-1])
