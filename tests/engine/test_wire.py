from dataclasses import replace

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import TransportError
from engine.types import Group
from engine.wire import decode_group, encode_group, from_frames, pack, to_frames, unpack
from tests.engine.make_groups import PNG, make_group, make_rollout


def through_the_wire(group: Group) -> Group:
    header, images = encode_group(group)
    message, carried = from_frames(to_frames({"group": header}, images))
    return decode_group(message["group"], carried)


def test_a_group_survives_the_wire() -> None:
    group = make_group(
        versions=(3, 4), judges={"coder": (1, 2)}, images=(b"a", b"b"), extra={"votes": [1, "x"]}
    )
    assert through_the_wire(group) == group


def test_what_goes_on_as_it_came_is_not_encoded_again() -> None:
    group = make_group(versions=(1, 2), images=(PNG, b"other"))
    header, images = encode_group(group)
    header = unpack(pack(header))
    again = decode_group(header, images, keeps_encoded=True)
    assert again == group
    assert encode_group(again)[0] is header
    assert encode_group(again) == encode_group(decode_group(header, images)) == (header, images)


def test_given_advantages_and_text_with_lone_surrogates_survive() -> None:
    group = replace(
        make_group(), advantages=(0.5, -0.5), rollouts=(make_rollout(text="\ud800 \0"),) * 2
    )
    assert through_the_wire(group) == group


def test_a_shared_picture_and_prompt_travel_once() -> None:
    header, images = encode_group(make_group(rewards=(0, 1, 0, 1), images=(b"png", b"png")))
    assert list(images.values()) == [b"png"]
    assert len(header["prompts"]) == 1


def test_prompts_and_pictures_that_differ_all_travel() -> None:
    rollouts = tuple(
        replace(make_rollout(images=images), prompt_ids=prompt)
        for prompt, images in (((1, 2), (b"a",)), ((1, 3), (b"b", b"a")), ((1, 2), (b"c",)))
    )
    group = replace(make_group(rewards=(0, 1, 0)), rollouts=rollouts)
    header, images = encode_group(group)
    assert set(images.values()) == {b"a", b"b", b"c"}
    assert [row["prompt"] for row in header["rollouts"]] == [0, 1, 0]
    assert through_the_wire(group) == group


@given(
    st.lists(
        st.tuples(
            st.integers(-(2**31), 2**31 - 1),
            st.floats(width=32, allow_nan=False),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_ids_and_float32_logprobs_are_exact(tokens: list[tuple[int, float]]) -> None:
    rollout = replace(
        make_rollout(), token_ids=tuple(t for t, _ in tokens), logprobs=tuple(p for _, p in tokens)
    )
    group = replace(make_group(), rollouts=(rollout, rollout))
    assert through_the_wire(group) == group


def test_a_missing_or_changed_picture_is_refused() -> None:
    header, images = encode_group(make_group())
    with pytest.raises(TransportError):
        decode_group(header, {})
    frames = to_frames({"group": header}, images)
    with pytest.raises(TransportError):
        from_frames([frames[0], frames[1] + b"!"])
    with pytest.raises(TransportError):
        from_frames(frames[:1])


@given(st.binary(max_size=200))
def test_garbage_is_a_transport_error(data: bytes) -> None:
    for read in (lambda: from_frames([data]), lambda: decode_group(unpack(data), {})):
        with pytest.raises(TransportError):
            read()


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_group_is_refused_or_a_group(data: st.DataObject) -> None:
    header, images = encode_group(make_group(versions=(1, 2)))
    packed = bytearray(pack(header))
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    packed = packed[: data.draw(st.integers(len(packed) // 2, len(packed)))]
    try:
        group = decode_group(unpack(bytes(packed)), images)
    except TransportError:
        return
    assert isinstance(group, Group)


@settings(max_examples=200)
@given(st.data())
def test_a_field_of_another_type_is_refused(data: st.DataObject) -> None:
    header, images = encode_group(make_group())
    junk = data.draw(st.sampled_from([None, True, -7, 1.5, "x", b"xyz", [], [[]], {"a": 1}]))
    place = data.draw(st.sampled_from(["format", "stream", "game", "prompts", "rollouts"]))
    row = data.draw(st.sampled_from(["policy", "prompt", "logprobs", "segments", "sampling"]))
    header["rollouts"][0][row] = junk
    header[place] = junk if data.draw(st.booleans()) else header[place]
    try:
        group = decode_group(header, images)
    except TransportError:
        return
    assert isinstance(group, Group)


def test_another_format_is_named() -> None:
    header, images = encode_group(make_group())
    with pytest.raises(TransportError, match="reads 1"):
        decode_group(header | {"format": 2}, images)


def test_a_bomb_of_nesting_is_refused() -> None:
    with pytest.raises(TransportError):
        unpack(b"\x91" * 100_000)
    assert unpack(msgpack.packb({"a": [1, 2]})) == {"a": [1, 2]}
