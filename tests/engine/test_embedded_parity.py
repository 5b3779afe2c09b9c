"""Log-probs of the embedded server against a fresh transformers forward."""

import random
from collections.abc import Iterator

import pytest
import torch

from engine.buckets import checksums
from engine.probe import Probe
from engine.server_calls import probe_logprobs, server_checksums
from engine.server_link import ServerLink
from engine.weights import publish
from tests.engine.server_process import (
    generate,
    in_background,
    load_of,
    output_logprobs,
    reference_logprobs,
    request,
    shared_server,
    tiny_module,
    until,
)
from tests.engine.tiny_models import IM_END, IM_START, IMAGE_PAD, VISION_END, VISION_START, picture

TOLERANCE = 1e-5
TEXT = (IM_START, 5, 6, 7, 40, 41, 42, IM_END, 9, 10)
ONE_IMAGE = (IM_START, 5, VISION_START, IMAGE_PAD, VISION_END, 10, 11, 12, IM_END, 20, 21)
TWO_IMAGES = (VISION_START, IMAGE_PAD, VISION_END, 10, VISION_START, IMAGE_PAD, VISION_END, 30, 31)


@pytest.fixture
def link() -> Iterator[ServerLink]:
    link = ServerLink(shared_server().urls[0])
    link.connect(timeout_s=300)
    yield link
    link.close()


def put_weights(link: ServerLink, seed: int, version: int, **options: object) -> None:
    """Publish the weights of tiny model `seed`."""
    report = publish(tiny_module(seed).state_dict().items(), [link], version=version, **options)
    assert not report.failed, report


def worst(answer: object, ids: tuple[int, ...], images: list[bytes], temperature: float) -> float:
    output = answer["output_ids"]
    expected = reference_logprobs(tiny_module(0), ids, images, output, temperature)
    return (output_logprobs(answer) - expected).abs().max().item()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("ids, images", [(TEXT, 0), (ONE_IMAGE, 1), (TWO_IMAGES, 2)])
def test_logprobs_equal_transformers(
    link: ServerLink, ids: tuple[int, ...], images: int, temperature: float
) -> None:
    put_weights(link, 0, 20)
    pictures = [picture(seed, side=96 + 32 * seed) for seed in range(images)]
    answer = generate(link.url, ids, pictures, temperature=temperature, max_new_tokens=40)
    assert worst(answer, ids, pictures, temperature) < TOLERANCE


def test_temperature_zero_is_greedy_with_plain_logprobs(link: ServerLink) -> None:
    put_weights(link, 0, 21)
    answer = generate(link.url, TEXT, temperature=0.0, max_new_tokens=12)
    assert worst(answer, TEXT, [], 1.0) < TOLERANCE
    with torch.no_grad():
        ids = list(TEXT)
        for token in answer["output_ids"]:
            logits = tiny_module(0)(input_ids=torch.tensor([ids])).logits[0, -1]
            assert logits.argmax().item() == token
            ids.append(token)


@pytest.mark.parametrize("limit", [{"top_p": 0.5}, {"top_k": 5}, {"min_p": 0.3}])
def test_logprobs_are_those_before_truncation(link: ServerLink, limit: dict[str, float]) -> None:
    put_weights(link, 0, 22)
    answer = generate(link.url, TEXT, temperature=0.7, **limit)
    assert worst(answer, TEXT, [], 0.7) < TOLERANCE


def test_requests_that_join_and_leave_do_not_disturb_each_other(link: ServerLink) -> None:
    put_weights(link, 0, 23)
    rng = random.Random(0)
    jobs = []
    for i in range(40):
        images = [picture(i % 3)] if i % 2 else []
        tail = tuple(rng.randrange(500) for _ in range(rng.randrange(1, 30)))
        ids = (ONE_IMAGE if images else TEXT) + tail
        options = {"max_new_tokens": rng.randrange(1, 60), "temperature": rng.choice([0.5, 1.0])}
        jobs.append((ids, images, options))
    futures = [
        in_background(lambda job=job: generate(link.url, job[0], job[1], **job[2])) for job in jobs
    ]
    for (ids, images, options), future in zip(jobs, futures, strict=True):
        assert worst(future.result(60), ids, images, options["temperature"]) < TOLERANCE


def test_weights_arrive_bit_for_bit_and_replace_every_cache(link: ServerLink) -> None:
    image = [picture(5)]
    put_weights(link, 0, 24)
    generate(link.url, ONE_IMAGE, image)  # fills the prompt and the image cache
    put_weights(link, 1, 25, bucket_bytes=1 << 20)
    mine = checksums(tiny_module(1).state_dict().items())
    assert server_checksums(link.url, timeout_s=300) == mine
    answer = generate(link.url, ONE_IMAGE, image, max_new_tokens=30)
    assert answer["meta_info"]["weight_version"] == "25"
    assert answer["meta_info"]["cached_tokens"] == 0
    expected = reference_logprobs(tiny_module(1), ONE_IMAGE, image, answer["output_ids"])
    assert (output_logprobs(answer) - expected).abs().max() < TOLERANCE
    scores = torch.tensor(probe_logprobs(link.url, Probe(TEXT[:1], TEXT[1:]), timeout_s=300))
    expected = reference_logprobs(tiny_module(1), TEXT[:1], [], TEXT[1:])
    assert (scores - expected).abs().max() < TOLERANCE


def test_retracted_rollouts_have_segments_that_match_their_versions(link: ServerLink) -> None:
    tiny_module(1)  # made now: requests would end meanwhile
    put_weights(link, 0, 30)
    image = [picture(2)]
    prompts = [(TEXT, []), (ONE_IMAGE, image), ((*ONE_IMAGE, 3), image)]
    futures = [
        in_background(
            lambda ids=ids, images=images: generate(
                link.url, ids, images, max_new_tokens=900, ignore_eos=True
            )
        )
        for ids, images in prompts
    ]
    until(lambda: load_of(link.url)[0] == 3)
    generated = request(link.url, "/v1/loads")[1]["loads"][0]["gen_tokens_total"]
    until(
        lambda: request(link.url, "/v1/loads")[1]["loads"][0]["gen_tokens_total"] > generated + 60
    )
    assert not any(future.done() for future in futures), "the update comes too late"
    put_weights(link, 1, 31)
    for (ids, images), future in zip(prompts, futures, strict=True):
        answer = future.result(60)
        output, meta = answer["output_ids"], answer["meta_info"]
        first, second = meta["weight_versions"]
        assert (first["version"], second["version"]) == ("30", "31")
        assert (first["start"], first["end"], second["end"]) == (0, second["start"], 900)
        assert meta["num_retractions"] == 1
        got = output_logprobs(answer)
        for span, seed in ((first, 0), (second, 1)):
            part = slice(span["start"], span["end"])
            right = reference_logprobs(tiny_module(seed), ids, images, output)
            wrong = reference_logprobs(tiny_module(1 - seed), ids, images, output)
            assert (got[part] - right[part]).abs().max() < TOLERANCE
            assert (got[part] - wrong[part]).abs().max() > 0.1


def test_an_update_without_a_pause_waits_for_running_requests(link: ServerLink) -> None:
    tiny_module(1)
    put_weights(link, 0, 40)
    running = in_background(lambda: generate(link.url, TEXT, max_new_tokens=900, ignore_eos=True))
    until(lambda: load_of(link.url)[0] == 1)
    assert not running.done(), "the update comes too late"
    put_weights(link, 1, 41, pause_mode=None)
    (span,) = running.result(60)["meta_info"]["weight_versions"]
    assert span == {"version": "40", "start": 0, "end": 900}
    assert generate(link.url, TEXT)["meta_info"]["weight_version"] == "41"


def test_in_place_keeps_going_and_labels_the_tokens(link: ServerLink) -> None:
    tiny_module(1)
    put_weights(link, 0, 50)
    running = in_background(lambda: generate(link.url, TEXT, max_new_tokens=900, ignore_eos=True))
    until(lambda: load_of(link.url)[0] == 1)
    put_weights(link, 1, 51, pause_mode="in_place")
    answer = running.result(60)
    assert [span["version"] for span in answer["meta_info"]["weight_versions"]] == ["50", "51"]
    assert len(answer["output_ids"]) == 900
    assert answer["meta_info"]["num_retractions"] == 0
