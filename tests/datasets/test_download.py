"""One file from one address: exact bytes after cuts, bounded, over http or https only."""

from __future__ import annotations

import random
import socket
import ssl
import urllib.request
from pathlib import Path

import pytest

from stgraph.datasets import download as module
from stgraph.datasets.download import Unavailable, download
from stgraph.errors import InputError

CONTENT = random.Random(0).randbytes(700_000)
LIMIT = 10**7


def test_cut_connections_are_resumed_to_the_exact_bytes(site, served, impatient, tmp_path):
    site.files["/f"] = served(CONTENT, cuts=[100_000, 250_001, 1])
    part = tmp_path / "f.part"
    download(f"{site.url}/f", part, LIMIT, len(CONTENT), patience=impatient)
    assert part.read_bytes() == CONTENT
    assert site.asked == [("/f", None, None), ("/f", "bytes=100000-", '"one"'), ("/f", "bytes=350001-", '"one"'),
                          ("/f", "bytes=350002-", '"one"')]


def test_an_unfinished_file_is_gone_on_from_by_the_next_call(site, served, impatient, tmp_path):
    site.files["/f"] = served(CONTENT, cuts=[300_000], statuses=[200, 503, 503, 503])
    part = tmp_path / "f.part"
    with pytest.raises(Unavailable, match="503"):
        download(f"{site.url}/f", part, LIMIT, patience=impatient)
    assert part.read_bytes() == CONTENT[:300_000]
    download(f"{site.url}/f", part, LIMIT, patience=impatient)
    assert part.read_bytes() == CONTENT
    assert site.asked[-1] == ("/f", "bytes=300000-", '"one"')


def test_a_file_that_changed_is_taken_whole_and_never_glued(site, served, impatient, tmp_path):
    other = CONTENT[::-1]
    site.files["/f"] = served(CONTENT, cuts=[300_000], statuses=[200, 404])
    part = tmp_path / "f.part"
    with pytest.raises(Unavailable):
        download(f"{site.url}/f", part, LIMIT, patience=impatient)
    site.files["/f"] = served(other, headers={"ETag": '"two"'})
    download(f"{site.url}/f", part, LIMIT, patience=impatient)
    assert part.read_bytes() == other


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"weak"'}])
def test_without_a_strong_validator_the_file_is_fetched_anew(site, served, impatient, tmp_path, headers):
    site.files["/f"] = served(CONTENT, cuts=[300_000], headers=headers)
    download(f"{site.url}/f", tmp_path / "f.part", LIMIT, len(CONTENT), patience=impatient)
    assert (tmp_path / "f.part").read_bytes() == CONTENT
    assert [wanted for _, wanted, _ in site.asked] == [None, None]


def test_the_date_serves_where_the_tag_is_weak(site, served, impatient, tmp_path):
    date = "Wed, 01 Jan 2020 00:00:00 GMT"
    site.files["/f"] = served(CONTENT, cuts=[5], headers={"ETag": 'W/"weak"', "Last-Modified": date})
    download(f"{site.url}/f", tmp_path / "f.part", LIMIT, patience=impatient)
    assert site.asked[1] == ("/f", "bytes=5-", date)


def test_a_server_without_ranges_is_borne(site, served, impatient, tmp_path):
    site.files["/f"] = served(CONTENT, cuts=[300_000], ranges=False)
    download(f"{site.url}/f", tmp_path / "f.part", LIMIT, patience=impatient)
    assert (tmp_path / "f.part").read_bytes() == CONTENT


def test_the_beginning_of_another_address_is_not_used(site, served, impatient, tmp_path):
    site.files["/a"] = served(b"a" * 1000, cuts=[500], statuses=[200, 404])
    site.files["/b"] = served(b"b" * 1000)
    with pytest.raises(Unavailable):
        download(f"{site.url}/a", tmp_path / "f.part", LIMIT, patience=impatient)
    download(f"{site.url}/b", tmp_path / "f.part", LIMIT, patience=impatient)
    assert (tmp_path / "f.part").read_bytes() == b"b" * 1000


def test_a_complete_file_is_not_fetched_again(site, served, impatient, tmp_path):
    site.files["/f"] = served(CONTENT)
    for _ in range(2):
        download(f"{site.url}/f", tmp_path / "f.part", LIMIT, patience=impatient)
        assert (tmp_path / "f.part").read_bytes() == CONTENT
    assert site.asked[1][1] == f"bytes={len(CONTENT)}-"  # answered 416 with the same size: nothing was sent


def test_a_server_that_always_cuts_is_given_up(site, served, impatient, tmp_path):
    site.files["/f"] = served(CONTENT, cuts=[10, 0, 0, 0, 0])
    with pytest.raises(Unavailable, match="3 tries without a new byte"):
        download(f"{site.url}/f", tmp_path / "f.part", LIMIT, patience=impatient)
    assert len(site.asked) == 4


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (410, 1), (500, 3), (429, 3)])
def test_what_passes_is_tried_again_and_what_is_final_is_not(site, served, impatient, tmp_path, status, requests):
    site.files["/f"] = served(CONTENT, statuses=[status] * 9)
    with pytest.raises(Unavailable, match=str(status)):
        download(f"{site.url}/f", tmp_path / "f.part", LIMIT, patience=impatient)
    assert len(site.asked) == requests


@pytest.mark.parametrize("length", [True, False])
def test_more_than_the_limit_is_refused_and_nothing_is_left(site, served, impatient, tmp_path, length):
    site.files["/f"] = served(CONTENT, length=length)
    with pytest.raises(InputError) as caught:
        download(f"{site.url}/f", tmp_path / "f.part", 1000, patience=impatient)
    assert "1,000" in caught.value.problem
    assert "--max-bytes" in (caught.value.remedy or "")
    assert list(tmp_path.iterdir()) == []


def test_another_size_than_the_card_says_is_refused(site, served, impatient, tmp_path):
    site.files["/f"] = served(CONTENT)
    with pytest.raises(Unavailable, match="the card says 5"):
        download(f"{site.url}/f", tmp_path / "f.part", LIMIT, 5, patience=impatient)


def test_a_full_disk_is_told_apart_from_a_broken_connection(site, served, impatient, tmp_path):
    site.files["/f"] = served(CONTENT)
    (tmp_path / "taken").write_text("a file where a folder is needed")
    with pytest.raises(InputError) as caught:
        download(f"{site.url}/f", tmp_path / "taken" / "f.part", LIMIT, patience=impatient)
    assert "cannot be written" in caught.value.problem
    assert len(site.asked) == 1


@pytest.mark.parametrize("scheme", ["file:///etc/hostname", "ftp://127.0.0.1/f", "data:text/plain,hello"])
def test_other_schemes_are_refused_also_behind_a_redirect(site, served, impatient, tmp_path, scheme):
    site.files["/f"] = served(b"", location=scheme)
    for url in (scheme, f"{site.url}/f"):
        with pytest.raises(Unavailable):
            download(url, tmp_path / "f.part", LIMIT, patience=impatient)
    assert not (tmp_path / "f.part").exists()


def test_redirects_are_followed_but_never_from_https_to_http(site, served, impatient, tmp_path):
    site.files |= {"/f": served(b"", location="/g"), "/g": served(CONTENT)}
    download(f"{site.url}/f", tmp_path / "f.part", LIMIT, patience=impatient)
    assert (tmp_path / "f.part").read_bytes() == CONTENT
    request = urllib.request.Request("https://example.org/f")
    with pytest.raises(urllib.error.HTTPError, match="not allowed"):
        module._Redirects().redirect_request(request, None, 302, "", {}, "http://example.org/f")


def test_certificates_are_checked():
    (handler,) = [one for one in module._opener().handlers if isinstance(one, urllib.request.HTTPSHandler)]
    assert handler._context.verify_mode is ssl.CERT_REQUIRED
    assert handler._context.check_hostname


def test_a_host_that_cannot_be_reached_is_named(impatient, tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(Unavailable, match="cannot be reached"):
        download(f"http://127.0.0.1:{port}/f", tmp_path / "f.part", LIMIT, patience=impatient)


def test_every_piece_is_reported(site, served, impatient, tmp_path):
    site.files["/f"] = served(CONTENT, cuts=[100_000])
    seen: list[tuple[int, int]] = []
    download(f"{site.url}/f", tmp_path / "f.part", LIMIT, report=lambda have, total: seen.append((have, total)),
             patience=impatient)
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [have for have, _ in seen] == sorted(have for have, _ in seen)
