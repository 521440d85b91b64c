"""A damaged checkpoint is noticed, whichever of its bytes is another."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from autotune.study.checkpoint_file import pack, read_checkpoint, unpack

NOTE = {"curve": {"1": 0.5}}


@given(st.binary())
def test_what_is_packed_is_unpacked(checkpoint):
    assert unpack(pack(checkpoint, NOTE)) == (NOTE, checkpoint)


@given(st.data())
def test_any_changed_byte_and_any_missing_end_is_damage(data):
    content = pack(b"tensors\nand more", NOTE)
    at = data.draw(st.integers(0, len(content) - 1))
    other = bytes([content[at] ^ data.draw(st.integers(1, 255))])
    changed = content[:at] + other + content[at + 1 :]
    assert unpack(changed) in (None, (NOTE, b"tensors\nand more"))  # a space is no change of JSON
    assert unpack(content[:at]) is None


def test_damage_is_reported_and_a_missing_file_is_none(tmp_path, caplog):
    file = tmp_path / "trial.checkpoint"
    assert read_checkpoint(file, "trial 3") is None
    assert not caplog.text
    file.write_bytes(pack(b"tensors", NOTE)[:-1])
    assert read_checkpoint(file, "trial 3") is None
    assert "is damaged, so trial 3 is trained again" in caplog.text
