"""``get`` and ``verify``: the right files or none, from the first source that has them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import socket
import zipfile
from pathlib import Path

import pytest

from stgraph.datasets import UnpinnedWarning, get, verify
from stgraph.errors import InputError

GOOD, BAD = b"the readings" * 1000, b"something else"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


# -------------------------------------------------------------------- from the net
def test_a_cut_download_ends_in_the_exact_file(site, served, known, impatient, tmp_path):
    known({"name": "toy.npz", "content": GOOD, "sources": [f"{site.url}/f"]})
    site.files["/f"] = served(GOOD, cuts=[5000, 1])
    report = get("toy", tmp_path, progress=False, patience=impatient)
    assert (tmp_path / "toy.npz").read_bytes() == GOOD
    assert [wanted for _, wanted, _ in site.asked] == [None, "bytes=5000-", "bytes=5001-"]
    assert report["files"] == [{"name": "toy.npz", "state": "downloaded", "sha256": digest(GOOD), "bytes": len(GOOD),
                                "from": f"{site.url}/f", "pinned": True}]
    assert sorted(contents(tmp_path)) == ["digests.json", "toy.npz"]


def test_the_second_source_serves_where_the_first_is_dead(site, served, known, impatient, tmp_path):
    known({"name": "toy.npz", "content": GOOD, "sources": [f"{site.url}/gone", f"{site.url}/f"]})
    site.files["/f"] = served(GOOD)
    report = get("toy", tmp_path, progress=False, patience=impatient)
    assert report["files"][0]["from"] == f"{site.url}/f"
    assert [path for path, _, _ in site.asked] == ["/gone", "/f"]


def test_a_wrong_file_is_refused_and_leaves_nothing(site, served, known, impatient, tmp_path):
    known({"name": "toy.npz", "content": GOOD, "bytes": 0, "sources": [f"{site.url}/f"]})
    site.files["/f"] = served(BAD)
    with pytest.raises(InputError) as caught:
        get("toy", tmp_path / "new", progress=False, patience=impatient)
    assert "its sha256 is different" in caught.value.problem
    assert digest(BAD) in caught.value.problem
    assert contents(tmp_path) == {}


def test_what_stood_there_survives_a_wrong_file_and_is_replaced_by_the_right_one(site, served, known, impatient,
                                                                                 tmp_path):
    known({"name": "toy.npz", "content": GOOD, "bytes": 0, "sources": [f"{site.url}/f"]})
    (tmp_path / "toy.npz").write_bytes(b"older")
    site.files["/f"] = served(BAD)
    with pytest.raises(InputError):
        get("toy", tmp_path, progress=False, patience=impatient)
    assert contents(tmp_path) == {"toy.npz": b"older"}
    site.files["/f"] = served(GOOD)
    get("toy", tmp_path, progress=False, patience=impatient)
    assert (tmp_path / "toy.npz").read_bytes() == GOOD


def test_a_good_file_is_kept_without_asking_anybody(site, served, known, impatient, tmp_path):
    known({"name": "toy.npz", "content": GOOD, "sources": [f"{site.url}/f"]})
    site.files["/f"] = served(BAD)
    (tmp_path / "toy.npz").write_bytes(GOOD)
    assert get("toy", tmp_path, progress=False, patience=impatient)["files"][0]["state"] == "present"
    assert site.asked == []
    assert contents(tmp_path) == {"toy.npz": GOOD}


def test_when_nobody_answers_the_message_names_sources_alternatives_and_the_way_by_hand(known, impatient, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    known({"name": "toy.npz", "content": GOOD, "sources": [f"http://127.0.0.1:{port}/f", "http://no.invalid/f"]})
    with pytest.raises(InputError) as caught:
        get("toy", tmp_path, progress=False, patience=impatient)
    message = str(caught.value)
    for part in (f"http://127.0.0.1:{port}/f", "http://no.invalid/f", "cannot be reached",
                 "Ask the neighbour, who keeps a copy", "--from FOLDER", str(tmp_path / "toy.npz")):
        assert part in message
    assert contents(tmp_path) == {}


def test_a_file_without_an_address_says_so(known, tmp_path):
    known({"name": "toy.npz", "content": GOOD})
    with pytest.raises(InputError, match="no public address serves it") as caught:
        get("toy", tmp_path, progress=False)
    assert "--from FOLDER" in (caught.value.remedy or "")


def test_a_card_larger_than_the_budget_is_refused_before_anything_is_sent(site, served, known, impatient, tmp_path):
    known({"name": "toy.npz", "content": GOOD, "sources": [f"{site.url}/f"]})
    site.files["/f"] = served(GOOD)
    with pytest.raises(InputError, match="allowed bytes") as caught:
        get("toy", tmp_path, progress=False, max_bytes=len(GOOD) - 1, patience=impatient)
    assert "--max-bytes" in (caught.value.remedy or "")
    assert site.asked == []
    get("toy", tmp_path, progress=False, max_bytes=len(GOOD), patience=impatient)


# -------------------------------------------------------------------- archives
def test_members_of_one_archive_are_taken_from_one_download(site, served, known, impatient, tmp_path):
    source = {"url": f"{site.url}/all.zip"}
    known({"name": "toy.npz", "content": GOOD, "sources": [source | {"member": "in/toy.npz"}]},
          {"name": "b.csv", "content": b"1", "sources": [source | {"member": "b.csv"}]})
    site.files["/all.zip"] = served(zipped({"in/toy.npz": GOOD, "b.csv": b"1", "unwanted": b"2"}), cuts=[20])
    get("toy", tmp_path, progress=False, patience=impatient)
    assert sorted(contents(tmp_path)) == ["b.csv", "digests.json", "toy.npz"]
    assert len(site.asked) == 2  # one download, cut once


def test_a_zip_that_leads_out_of_its_folder_is_refused_and_leaves_nothing(site, served, known, impatient, tmp_path):
    known({"name": "toy.npz", "content": GOOD, "sources": [{"url": f"{site.url}/z", "member": "toy.npz"}]})
    site.files["/z"] = served(zipped({"toy.npz": GOOD, "../../evil": BAD}))
    with pytest.raises(InputError, match="leads out of its folder"):
        get("toy", tmp_path / "a" / "b", progress=False, patience=impatient)
    assert contents(tmp_path) == {}


def test_a_zip_bomb_is_refused_unless_the_user_allows_it(site, served, known, impatient, tmp_path):
    bomb = bytes(20 * 2**20)
    known({"name": "toy.npz", "content": bomb, "sources": [{"url": f"{site.url}/z", "member": "toy.npz"}]})
    site.files["/z"] = served(zipped({"toy.npz": bomb}))
    with pytest.raises(InputError, match="unfolds to more than") as caught:
        get("toy", tmp_path, progress=False, patience=impatient)
    assert "--max-bytes" in (caught.value.remedy or "")
    assert contents(tmp_path) == {}
    get("toy", tmp_path, progress=False, max_bytes=len(bomb), patience=impatient)
    assert (tmp_path / "toy.npz").stat().st_size == len(bomb)


def test_after_a_bad_archive_the_next_source_is_asked(site, served, known, impatient, tmp_path):
    known({"name": "toy.npz", "content": GOOD,
           "sources": [{"url": f"{site.url}/z", "member": "toy.npz"}, f"{site.url}/f"]})
    site.files |= {"/z": served(b"<html>log in</html>"), "/f": served(GOOD)}
    assert get("toy", tmp_path, progress=False, patience=impatient)["files"][0]["from"] == f"{site.url}/f"
    assert sorted(contents(tmp_path)) == ["digests.json", "toy.npz"]


# -------------------------------------------------------------------- not pinned
def test_an_unpinned_file_is_taken_loudly_and_its_digest_written_down(site, served, known, impatient, tmp_path):
    known({"name": "toy.npz", "sources": [f"{site.url}/f"]})
    site.files["/f"] = served(GOOD)
    with pytest.warns(UnpinnedWarning, match=f"NOT PINNED.*{digest(GOOD)}"):
        get("toy", tmp_path, progress=False, patience=impatient)
    written = json.loads((tmp_path / "digests.json").read_text())["files"]["toy.npz"]
    assert written == {"sha256": digest(GOOD), "bytes": len(GOOD), "from": f"{site.url}/f", "pinned": False}
    assert verify("toy", tmp_path)["files"][0]["state"] == "unpinned"
    assert get("toy", tmp_path, progress=False)["files"][0]["state"] == "present"  # known from now on
    (tmp_path / "toy.npz").write_bytes(BAD)
    assert verify("toy", tmp_path)["files"][0]["state"] == "wrong"


def test_an_unpinned_file_put_there_by_hand_is_accepted_loudly(known, tmp_path):
    known({"name": "toy.npz"})
    (tmp_path / "toy.npz").write_bytes(GOOD)
    assert verify("toy", tmp_path)["files"][0]["state"] == "unpinned"
    with pytest.warns(UnpinnedWarning):
        assert get("toy", tmp_path, progress=False)["files"][0]["state"] == "present"


# -------------------------------------------------------------------- local copies
@pytest.mark.parametrize("inside", ["", "toy"])
def test_local_copies_are_used_and_checked(known, tmp_path, inside):
    known({"name": "toy.npz", "content": GOOD})
    collection = tmp_path / "collection"
    (collection / inside).mkdir(parents=True)
    (collection / inside / "toy.npz").write_bytes(GOOD)
    report = get("toy", tmp_path / "out", progress=False, local=collection)
    assert report["files"][0]["state"] == "copied"
    assert (tmp_path / "out" / "toy.npz").read_bytes() == GOOD
    (collection / inside / "toy.npz").write_bytes(BAD)
    with pytest.raises(InputError, match="sha256 is different"):
        get("toy", tmp_path / "other", progress=False, local=collection)
    assert not (tmp_path / "other" / "toy.npz").exists()


def test_a_folder_without_the_file_is_named(site, known, tmp_path):
    known({"name": "toy.npz", "content": GOOD, "sources": [f"{site.url}/f"]})
    with pytest.raises(InputError, match="does not hold this file") as caught:
        get("toy", tmp_path / "out", progress=False, local=tmp_path)
    assert caught.value.file == str(tmp_path)
    assert site.asked == []  # told to use the folder, so nobody else is asked


def test_the_collection_of_the_environment_comes_before_the_net_but_only_where_it_is_right(
        site, served, known, impatient, tmp_path, monkeypatch):
    known({"name": "toy.npz", "content": GOOD, "sources": [f"{site.url}/f"]})
    site.files["/f"] = served(GOOD)
    (tmp_path / "shelf" / "toy").mkdir(parents=True)
    monkeypatch.setenv("STGRAPH_DATA", str(tmp_path / "shelf"))
    (tmp_path / "shelf" / "toy" / "toy.npz").write_bytes(GOOD)
    assert get("toy", tmp_path / "one", progress=False, patience=impatient)["files"][0]["state"] == "copied"
    assert site.asked == []
    (tmp_path / "shelf" / "toy" / "toy.npz").write_bytes(BAD)
    assert get("toy", tmp_path / "two", progress=False, patience=impatient)["files"][0]["state"] == "downloaded"


def test_a_gzipped_local_copy_is_unpacked_to_the_pinned_file(known, tmp_path):
    packed = gzip.compress(GOOD, mtime=0)
    card = known({"name": "toy.json", "content": GOOD,
                  "packed": {"name": "toy.json.gz", "sha256": digest(packed), "bytes": len(packed)}})
    (tmp_path / "toy.json.gz").write_bytes(packed)
    assert card.locate(tmp_path) == {"toy.json": tmp_path / "toy.json.gz"}
    assert verify("toy", tmp_path)["files"][0] == {"name": "toy.json.gz", "state": "ok", "sha256": digest(packed),
                                                   "expected": digest(packed)}
    get("toy", tmp_path / "out", progress=False, local=tmp_path)
    assert (tmp_path / "out" / "toy.json").read_bytes() == GOOD
    (tmp_path / "toy.json.gz").write_bytes(packed[:-9])
    with pytest.raises(InputError, match="damaged"):
        get("toy", tmp_path / "other", progress=False, local=tmp_path)


# -------------------------------------------------------------------- verify
def test_verify_tells_ok_wrong_and_missing_apart(known, tmp_path):
    known({"name": "a", "content": b"a"}, {"name": "b", "content": b"b"}, {"name": "c", "content": b"c"})
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"altered")
    report = verify("toy", tmp_path)
    assert [file["state"] for file in report["files"]] == ["ok", "wrong", "missing"]
    assert not report["ok"]
    (tmp_path / "b").write_bytes(b"b")
    (tmp_path / "c").write_bytes(b"c")
    assert verify("toy", tmp_path)["ok"]
