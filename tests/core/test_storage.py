"""Addresses of buckets, what is read and written there, and that no message holds a secret."""

from pathlib import Path

import pytest
from support.servers.fake_bucket import install

from featherseg.core import storage
from featherseg.core.errors import ConfigError, DataError, DataNotFound, MissingExtra
from featherseg.core.storage import StoredFile, address, is_remote, list_files, write_whole

SECRET = "wJalrXUtnFEMI-K7MDENG"


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    return install(monkeypatch, tmp_path / "home")


@pytest.mark.parametrize("place", ["s3://b/in", Path("s3://b/in"), "gs://b", "s3:/b/in"])
def test_an_address_is_known_also_where_a_path_was_made_of_it(place):
    assert is_remote(place)
    assert address(place) in ("s3://b/in", "gs://b")


@pytest.mark.parametrize(
    "place", ["in", "/s3/b", "./s3:/b", "hf://org/name", "file:///etc/passwd", "http://host/x"]
)
def test_other_places_are_no_addresses_of_buckets(place):
    assert not is_remote(place)


@pytest.mark.parametrize(
    "place",
    [
        f"s3://AKIA:{SECRET}@bucket/in",
        f"s3://{SECRET}@bucket",
        f"s3://b/x?X-Amz-Signature={SECRET}",
    ],
)
def test_credentials_in_an_address_are_refused_and_not_repeated(place):
    with pytest.raises(ConfigError) as refused:
        address(place)
    assert SECRET not in str(refused.value)


def test_an_address_without_a_bucket_is_refused():
    with pytest.raises(ConfigError, match="no bucket"):
        address("s3:///in")


def test_objects_are_listed_by_name_directly_in_a_folder_or_below_it(bucket):
    bucket.objects = {
        "b/in/2.png": b"22",
        "b/in/1.png": b"1",
        "b/in/deep/3.png": b"333",
        "b/inn/4.png": b"",
    }
    assert [(file.name, file.stem, file.size) for file in list_files("s3://b/in")] == [
        ("1.png", "1", 1),
        ("2.png", "2", 2),
    ]
    assert [str(file) for file in list_files("s3://b/in", deep=True)][-1] == "s3://b/in/deep/3.png"
    with pytest.raises(DataNotFound, match="s3://b/out"):
        list(list_files("s3://b/out"))


def test_what_is_put_is_read_again(bucket):
    write_whole("s3://b/out/a.png", b"mask")
    (file,) = list_files("s3://b/out")
    assert file.read() == b"mask"


def test_an_object_that_changes_or_is_too_large_is_refused(bucket):
    bucket.objects = {"b/a": b"12"}
    with pytest.raises(DataError, match="has changed"):
        StoredFile("s3://b/a", 3, "v").read()
    bucket.asked.clear()
    with pytest.raises(DataError, match="the limit"):
        StoredFile("s3://b/a", 2**31, "v").read()
    assert not bucket.asked


def test_an_error_of_the_storage_is_told_without_the_secrets_of_the_environment(
    bucket, monkeypatch
):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7")
    bucket.objects = {"b/a": b"12"}
    bucket.faults["s3://b/a"] = OSError(f"signature of AKIAIOSFODNN7 with {SECRET} does not match")
    with pytest.raises(DataError) as told:
        StoredFile("s3://b/a", 2, "v").read()
    assert SECRET not in str(told.value)
    assert "AKIAIOSFODNN7" not in str(told.value)
    assert "does not match" in str(told.value)
    assert told.value.__cause__ is None
    assert told.value.__suppress_context__


def test_without_the_extra_the_command_that_installs_it_is_told(monkeypatch):
    monkeypatch.setitem(storage.PACKAGES, "s3", "no_such_package")
    with pytest.raises(MissingExtra, match=r"featherseg\[cloud\]"):
        list(list_files("s3://b/in"))


def test_a_folder_is_streamed_page_by_page_and_one_that_is_not_there_is_empty(monkeypatch):
    """As S3 answers: a limit on keys, the folders below as prefixes, a token for the next page."""
    keys, asked = [f"in/{number}.png" for number in range(5)], []

    class Paged:
        def call_s3(self, method, Bucket, Prefix, Delimiter, ContinuationToken="0"):  # noqa: N803
            asked.append((method, Bucket, Prefix, Delimiter))
            start = int(ContinuationToken)
            page = [
                {"Key": key, "Size": 7, "ETag": '"e"'} for key in keys if key.startswith(Prefix)
            ][start : start + 2]
            more = (
                {"IsTruncated": True, "NextContinuationToken": str(start + 2)}
                if start + 2 < len(keys)
                else {}
            )
            return {"Contents": page, **more} if page else {}

    monkeypatch.setattr(storage, "_storage", lambda place: Paged())
    found = storage.stream_files("s3://b/in")
    assert next(found) == storage.StoredFile("s3://b/in/0.png", 7, "e")
    assert len(asked) == 1  # the next page is asked for when it is needed
    assert [file.name for file in found] == [f"{number}.png" for number in range(1, 5)]
    assert set(asked) == {("list_objects_v2", "b", "in/", "/")}
    assert list(storage.stream_files("s3://b/out")) == []
