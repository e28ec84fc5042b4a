-- The steps of two runs side by side, each by its key: those that differ first, then in the order of the first run. Caller: db::compare.
-- Index: checkpoints_pkey.
WITH a AS MATERIALIZED (SELECT s.* FROM stepd.steps s WHERE s.run = $1 AND s.kind <> 'end'),
    b AS MATERIALIZED (SELECT s.* FROM stepd.steps s WHERE s.run = $2 AND s.kind <> 'end'),
    pairs AS (
        SELECT coalesce(a.key, b.key) AS key, coalesce(a.seq, b.seq) AS seq, a.key IS NULL AS absent_a, b.key IS NULL AS absent_b,
            a.state::text AS state_a, b.state::text AS state_b, a.attempts AS attempts_a, b.attempts AS attempts_b,
            CASE WHEN a.state <> 'skipped' THEN extract(epoch FROM a.duration) * 1000 END AS took_a,
            CASE WHEN b.state <> 'skipped' THEN extract(epoch FROM b.duration) * 1000 END AS took_b,
            a.error_code AS code_a, b.error_code AS code_b, a.tokens_in AS in_a, b.tokens_in AS in_b, a.tokens_out AS out_a, b.tokens_out AS out_b,
            a.cost AS cost_a, b.cost AS cost_b, a.output::text IS DISTINCT FROM b.output::text OR a.error::text IS DISTINCT FROM b.error::text AS said,
            a.state IS DISTINCT FROM b.state OR a.error_code IS DISTINCT FROM b.error_code AS went
        FROM a FULL JOIN b ON b.key = a.key
    )
SELECT p.key AS "key!", p.seq AS "seq!", p.absent_a AS "absent_a!", p.absent_b AS "absent_b!", p.state_a AS "state_a?", p.state_b AS "state_b?",
    p.attempts_a AS "attempts_a?", p.attempts_b AS "attempts_b?", p.took_a::float8 AS "took_a?", p.took_b::float8 AS "took_b?",
    p.code_a AS "code_a?", p.code_b AS "code_b?", p.in_a AS "in_a?", p.in_b AS "in_b?", p.out_a AS "out_a?", p.out_b AS "out_b?",
    p.cost_a::float8 AS "cost_a?", p.cost_b::float8 AS "cost_b?", p.said AS "said!",
    count(*) OVER () AS "all!", count(*) FILTER (WHERE p.went OR p.said) OVER () AS "differing!"
FROM pairs p ORDER BY (p.went OR p.said) DESC, p.seq, p.key LIMIT $3
