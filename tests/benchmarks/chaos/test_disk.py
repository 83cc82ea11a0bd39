"""A disk that is filled to the last byte and freed again; where it may be mounted."""

import errno

import pytest

from benchmarks.chaos.disk import Disk, why_not


def test_a_full_disk_refuses_a_byte_and_a_freed_one_takes_it() -> None:
    if why := why_not():
        pytest.skip(why)
    with Disk(2) as disk:
        assert disk.fill() > 2**20
        assert disk.fill() == 0
        file = disk.folder / "more"
        with pytest.raises(OSError) as raised:  # noqa: PT011 - its number is looked at
            file.write_bytes(b"x")
        assert raised.value.errno == errno.ENOSPC
        disk.free()
        file.write_bytes(b"x")
    assert not disk.folder.exists()
