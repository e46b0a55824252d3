"""A catalogue that changes goes through the graph, with an encoder of words, and the retriever answers with what is in it now."""

import json
from dataclasses import replace

import dagster as dg
import pytest

from mangaassist_assets.defs.retrieval import adapter, catalog, embeddings, feedback, index, pairs
from mangaassist_assets.lib.artifacts import MANIFEST, House
from mangaassist_assets.lib.retrieval import served
from mangaassist_assets.lib.retrieval.documents import CatalogSource
from mangaassist_assets.lib.retrieval.pairs import QUERIES
from mangaassist_assets.lib.retrieval.rebuild import IndexSettings
from mangaassist_assets.resources import HouseResource

from .shop import WordEncoder

THINGS = (
    "anchor bakery camera dragon engine forest guitar harbor island jungle kitchen lantern mirror needle ocean pirate queen robot".split()
)
PLACES = "in winter|on the moon|under a bridge|at school".split("|")


class Shop:
    """A catalogue file and the assets that follow it; 72 documents make lists worth while here."""

    def __init__(self, folder, monkeypatch):
        self.file, self.house = folder / "catalog.jsonl", House(folder / "home")
        self.texts = {f"d{i}": f"A story about {thing} {place}." for i, (thing, place) in enumerate((t, p) for t in THINGS for p in PLACES)}
        told = catalog.SETTINGS
        source = CatalogSource("shop", (str(self.file),))
        sources = replace(told.sources, catalog=(source,), retrieval_pairs=())
        monkeypatch.setattr(catalog, "SETTINGS", told.model_copy(update={"sources": sources}))
        monkeypatch.setattr(pairs, "SOURCES", sources)
        encoder = self.house.write_bundle("text_encoder", {}, {"source": "words"})
        monkeypatch.setattr(embeddings, "write_encoder", lambda *_: encoder)
        for module in (embeddings, served):
            monkeypatch.setattr(module, "open_encoder", lambda *_: WordEncoder())
        monkeypatch.setattr(index, "SETTINGS", replace(index.SETTINGS, index=IndexSettings(most_flat=50, lists_per_root=1.0)))
        self.house.write_table(feedback.TABLE, QUERIES.empty_table())

    def follow(self):
        """Materialises what hangs on the catalogue, what is learned from it once; returns the row of `chunk_index`."""
        self.file.write_text("".join(json.dumps({"id": i, "title": i, "text": text}) + "\n" for i, text in self.texts.items()))
        resources = {"house": HouseResource(home=str(self.house.home))}
        with dg.DagsterInstance.ephemeral() as instance:
            assert dg.materialize([catalog.catalog_chunks], instance=instance, resources=resources).success
            for shard in embeddings.SHARDS.get_partition_keys():
                assert dg.materialize([embeddings.chunk_embeddings], instance=instance, resources=resources, partition_key=shard).success
            learned = [] if self.house.has_table(adapter.TABLE) else [pairs.retrieval_pairs, adapter.embedding_adapter]
            assert dg.materialize([*learned, index.chunk_index], instance=instance, resources=resources).success
        return self.house.read_table(index.TABLE).to_pylist()[0]

    def ask(self, query):
        return [(hit.document_id, hit.text) for hit in index.retriever_of(self.house).retrieve(query, 3)]


@pytest.fixture
def shop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Shop(tmp_path, monkeypatch)


def without_changes(house, digest):
    """A bundle as it was before changes were served."""
    made = house.bundle(digest)
    files = {path.name: path.read_bytes() for path in made.path.iterdir() if path.name != MANIFEST}
    return house.write_bundle(made.kind, files, {name: value for name, value in made.facts.items() if name != "changes_upto"}).digest


def test_a_changed_catalogue_is_answered_from_without_a_rebuild(shop):
    first = shop.follow()
    assert (first["strategy"], first["changed"], first["rows"]) == ("ivf", 0, 72)
    assert shop.ask("a robot under a bridge")[0] == ("d70", "A story about robot under a bridge.")
    shop.texts["d70"] = "Two sisters open a flower shop."
    shop.texts["d99"] = "A volcano erupts over the vineyard."
    del shop.texts["d0"]
    second = shop.follow()
    assert (second["strategy"], second["changed"], second["rows"]) == ("changes", 3, 72)
    assert second["digest"] == first["digest"] and second["bundle_digest"] != first["bundle_digest"]
    assert second["recall_at_10"] is None
    assert served.served_retriever(shop.house.home) == served.ServedRetriever(first["digest"], second["bundle_digest"])
    assert shop.ask("flower shop")[0] == ("d70", "Two sisters open a flower shop.")
    assert shop.ask("volcano vineyard")[0][0] == "d99"
    assert "d70" not in dict(shop.ask("a robot under a bridge"))
    assert "d0" not in dict(shop.ask("a story about anchor in winter"))
    served.announce(shop.house.home, first["digest"], without_changes(shop.house, first["bundle_digest"]))
    assert shop.ask("a robot under a bridge")[0][0] == "d70", "an older bundle serves the index alone"
    assert shop.follow() == second | {"changed": 0}
    shop.texts = {f"d{i}": f"{text} Revised." for i, text in enumerate(shop.texts.values())}
    third = shop.follow()
    assert (third["strategy"], third["changes_upto"]) == ("ivf", 1)
    assert shop.ask("flower shop")[0][1] == "Two sisters open a flower shop. Revised."
