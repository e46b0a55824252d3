-- asset.description = One row per embedding space, slice and metric, as measured on the judged queries.
-- asset.column = embedding_space | text | Encoder and adapter, or the channel, that ranked.
-- asset.column = slice | text | Kind of query; all for every one.
-- asset.column = metric | text | recall_at_3, recall_at_5, mrr or ndcg_at_10.
-- asset.column = value | ratio | Mean over the queries.
-- asset.column = ci_low | ratio | Lower end of the 95% interval (bootstrap over queries).
-- asset.column = ci_high | ratio | Upper end of the 95% interval.
-- asset.column = n | count | Queries.
-- asset.not_null = embedding_space, slice, metric, n
SELECT
    embedding_space::VARCHAR AS embedding_space,
    slice::VARCHAR AS slice,
    metric::VARCHAR AS metric,
    nullif(value::DOUBLE, 'NaN'::DOUBLE) AS value,
    nullif(ci_low::DOUBLE, 'NaN'::DOUBLE) AS ci_low,
    nullif(ci_high::DOUBLE, 'NaN'::DOUBLE) AS ci_high,
    n::BIGINT AS n
FROM lake.retrieval.retrieval_evaluation
