"""Archives of strangers: nothing leaves the folder, nothing unfolds without bound, all or nothing is written."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stgraph.datasets.archive import ALWAYS_ALLOWED, UnsafeArchive, allowance, unpack
from stgraph.errors import InputError

FILES = {"a.csv": b"1,2\n" * 100, "deep/er/b.bin": bytes(range(256))}


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.filename, entry.compress_type = name, zipfile.ZIP_DEFLATED  # past what the constructor mends
            archive.writestr(entry, content)
    return path


def make_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize("form", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
def test_what_was_packed_comes_back(tmp_path, form):
    path = tmp_path / "archive.part"
    make_zip(path, FILES) if form == "zip" else make_tar(path, FILES, form)
    written = unpack(path, tmp_path / "out", 10**6)
    assert {str(one.relative_to(tmp_path / "out")): one.read_bytes() for one in written} == FILES


def test_a_gzip_of_one_file_takes_the_name_asked_for(tmp_path):
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"content"))
    assert unpack(tmp_path / "x.csv.gz", tmp_path / "one", 100)[0] == tmp_path / "one" / "x.csv"
    assert unpack(tmp_path / "x.csv.gz", tmp_path / "two", 100, {"y.csv"})[0].read_bytes() == b"content"


def test_only_the_members_asked_for_are_written(tmp_path):
    written = unpack(make_zip(tmp_path / "z", FILES), tmp_path / "out", 300, {"deep/er/b.bin"})
    assert written == [tmp_path / "out/deep/er/b.bin"]
    assert [one.name for one in (tmp_path / "out").rglob("*") if one.is_file()] == ["b.bin"]
    with pytest.raises(UnsafeArchive, match="no such member"):
        unpack(tmp_path / "z", tmp_path / "other", 300, {"c.csv"})


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "C:\\evil", "..\\evil", "C:evil"])
@pytest.mark.parametrize("form", ["zip", "tar"])
def test_a_path_that_leads_out_refuses_the_whole_archive(tmp_path, name, form):
    folder = tmp_path / "inner" / "out"
    path = (make_zip if form == "zip" else make_tar)(tmp_path / "bad", {"good.csv": b"1", name: b"evil"})
    with pytest.raises(UnsafeArchive) as caught:
        unpack(path, folder, 10**6, {"good.csv"})  # refused even where only a harmless member is wanted
    assert caught.value.value == name
    assert "nothing was unpacked" in caught.value.problem
    assert [one for one in tmp_path.rglob("*") if one.is_file()] == [path]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "bad.tar", "w") as archive:
        entry = tarfile.TarInfo("link")
        entry.type, entry.linkname = kind, "/etc/hostname"
        archive.addfile(entry)
    with pytest.raises(UnsafeArchive, match="link or a device"):
        unpack(tmp_path / "bad.tar", tmp_path / "out", 10**6)
    assert not (tmp_path / "out").exists()


def test_a_link_in_a_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/hostname")
    with pytest.raises(UnsafeArchive, match="link or a device"):
        unpack(tmp_path / "bad.zip", tmp_path / "out", 10**6)


def test_one_name_twice_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("a", "1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a", "2")
    with pytest.raises(UnsafeArchive, match="twice"):
        unpack(tmp_path / "bad.zip", tmp_path / "out", 10**6)


@pytest.mark.parametrize("form", ["zip", "tar", "gz"])
def test_a_bomb_is_stopped_at_the_limit_and_leaves_what_stood_there(tmp_path, form):
    zeros = bytes(3_000_000)
    path = tmp_path / "bomb"
    if form == "gz":
        path.write_bytes(gzip.compress(zeros))
    else:
        make_zip(path, {"z": zeros}) if form == "zip" else make_tar(path, {"z": zeros}, "w:gz")
    assert path.stat().st_size < 10_000
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("kept")
    with pytest.raises(InputError, match="more than 2,999,999 bytes") as caught:
        unpack(path, tmp_path / "out", 2_999_999)
    assert "--max-bytes" in (caught.value.remedy or "")
    assert [one.name for one in tmp_path.rglob("*") if one.is_file()] == ["bomb", "old"]
    assert len(unpack(path, tmp_path / "out", 3_000_000)) == 1  # told that it is all right


@pytest.mark.parametrize("form", ["zip", "tar", "gz"])
def test_a_damaged_archive_is_refused(tmp_path, form):
    path = tmp_path / "damaged"
    noise = bytes(range(256)) * 50
    if form == "gz":
        path.write_bytes(gzip.compress(noise)[:-20])
    else:
        make_zip(path, {"a": noise}) if form == "zip" else make_tar(path, {"a": noise})
        content = bytearray(path.read_bytes())
        content[60:70] = b"corruption"
        path.write_bytes(content if form == "zip" else content[:5000])
    with pytest.raises(UnsafeArchive):
        unpack(path, tmp_path / "out", 10**6)
    assert not (tmp_path / "out").exists()


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "page").write_text("<html>Please log in</html>")
    with pytest.raises(UnsafeArchive, match="neither zip, tar nor gzip"):
        unpack(tmp_path / "page", tmp_path / "out", 10**6)


def test_the_allowance_follows_the_size_unless_the_user_says_so():
    assert allowance(10, None, 10**9) == ALWAYS_ALLOWED
    assert allowance(10**6, None, 10**9) == 2 * 10**8
    assert allowance(10**8, None, 10**9) == 10**9
    assert allowance(10, 5 * 10**9, 10**9) == 5 * 10**9


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.sampled_from(["..", ".", "a", "b", "", "~", "C:"]), min_size=1, max_size=4).map("/".join),
                min_size=1, max_size=3, unique=True))
def test_whatever_the_names_nothing_lands_outside(tmp_path_factory, names):
    base = tmp_path_factory.mktemp("base")
    path = make_zip(base / "z.zip", {name: b"x" for name in names})
    try:
        unpack(path, base / "in" / "out", 1000)
    except InputError:
        assert not (base / "in" / "out").exists()
    outside = [one for one in base.rglob("*") if one.is_file() and one != path
               and not one.resolve().is_relative_to((base / "in" / "out").resolve())]
    assert outside == []
