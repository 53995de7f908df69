"""Generative recommendation: name the next item by its semantic identifier, digit by digit, in any order."""

from demask.recommend.catalogue import Catalogue
from demask.recommend.embeddings import Sentences, Words, read_embeddings
from demask.recommend.evaluate import Quality, evaluate
from demask.recommend.folder import Prepared, Recommender, read_data, read_model, write_data, write_model
from demask.recommend.generative import Catalogued, Generative, Given, released
from demask.recommend.identify import Quantiser
from demask.recommend.interactions import Cases, Event, Interactions, read_events, read_texts
from demask.recommend.known import Known
from demask.recommend.network import Dimensions, Network
from demask.recommend.noising import Views, confidence, loss, nested, views
from demask.recommend.ranking import ItemKNN, Popularity, Ranker, Ranking
from demask.recommend.train import Epoch, RecommendRecipe, TrainedRecommender, train_recommender

__all__ = [
    "Cases", "Catalogue", "Catalogued", "Dimensions", "Epoch", "Event", "Generative", "Given", "Interactions",
    "ItemKNN", "Known", "Network", "Popularity", "Prepared", "Quality", "Quantiser", "Ranker", "Ranking",
    "RecommendRecipe", "Recommender", "Sentences", "TrainedRecommender", "Views", "Words", "confidence", "evaluate",
    "loss", "nested", "read_data", "read_embeddings", "read_events", "read_model", "read_texts", "released",
    "train_recommender", "views", "write_data", "write_model",
]  # fmt: skip
