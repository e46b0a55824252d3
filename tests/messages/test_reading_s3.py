import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.messages.reading import Source, read_messages

CSV = b"text,intent\nwhere is my box,order_tracking\nany news?,product_discovery\n"


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A server that speaks S3, with three objects in a bucket."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    settings = {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "REGION": "us-east-1", "EC2_METADATA_DISABLED": "true"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"ENDPOINT_URL": endpoint, **settings}.items():
            patch.setenv(f"AWS_{name}", value)
        for path, content in {"": b"", "/tickets/b.csv": CSV, "/tickets/a.csv": CSV, "/tickets/notes.txt": b"no"}.items():
            kind = {"Content-Type": "application/octet-stream"}
            urllib.request.urlopen(urllib.request.Request(f"{endpoint}/messages-shop{path}", content, kind, method="PUT")).close()
        yield "s3://messages-shop"
    server.stop()


def test_objects_on_s3_are_read_by_pattern_and_by_name(bucket: str) -> None:
    messages, _ = read_messages(Source("tickets", (f"{bucket}/tickets/*.csv",)))
    assert [(m.file, m.row) for m in messages] == [(f"{bucket}/tickets/{name}.csv", row) for name in "ab" for row in (2, 3)]
    assert len(read_messages(Source("tickets", (f"{bucket}/tickets/a.csv",), folder=Path("/elsewhere")))[0]) == 2


def test_a_pattern_without_objects_is_bad_input(bucket: str) -> None:
    for pattern in (f"{bucket}/tickets/*.parquet", f"{bucket}/tickets/c.csv", "s3://another/tickets/*.csv"):
        with pytest.raises(BadInput, match=r"s3://\S+: (no object matches|cannot be read)"):
            read_messages(Source("tickets", (pattern,)))


def test_an_address_of_an_unknown_kind_is_bad_input() -> None:
    with pytest.raises(BadInput, match="ftp://host/a.csv: cannot be read"):
        read_messages(Source("tickets", ("ftp://host/a.csv",)))
