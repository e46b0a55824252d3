-- asset.description = One row per embedding space, slice and metric: how often a relevant document is found, and how early.
-- asset.column = embedding_space | text | Encoder and adapter, or the channel, that ranked.
-- asset.column = slice | text | Kind of query; all for every one.
-- asset.column = metric | text | recall_at_3 and recall_at_5: share of queries with a relevant document among the first 3 or 5; mrr: mean reciprocal rank of the first; ndcg_at_10.
-- asset.column = value | ratio | Mean over the queries.
-- asset.column = ci_low | ratio | Lower end of the 95% interval (bootstrap over queries).
-- asset.column = ci_high | ratio | Upper end of the 95% interval.
-- asset.column = n | count | Queries.
-- asset.unique = embedding_space, slice, metric
-- asset.not_null = embedding_space, slice, metric, n
-- asset.accepted = metric | recall_at_3, recall_at_5, mrr, ndcg_at_10
-- asset.test = intervals_are_ordered | SELECT * FROM main.retrieval_metrics WHERE ci_low > ci_high
SELECT
    evaluation.embedding_space,
    evaluation.slice,
    evaluation.metric,
    evaluation.value,
    evaluation.ci_low,
    evaluation.ci_high,
    evaluation.n
FROM raw.retrieval_evaluation AS evaluation
ORDER BY evaluation.embedding_space, evaluation.slice, evaluation.metric
