-- The attempts of a run's steps, or of one of them ($2), in their order. Caller: the HTTP API, the command line's show.
SELECT a.key AS "key!", a.attempt AS "attempt!", a.state::text AS "state!", a.started_at, a.ended_at, a.error ->> 'class' AS error_class, a.error_code,
    a.error_message, a.error::text AS error, (extract(epoch FROM a.retry_in) * 1000)::bigint AS retry_in_ms, a.epoch, a.calls, a.tokens_in, a.tokens_out,
    a.cost::float8 AS cost
FROM stepd.attempts a WHERE a.run = $1 AND ($2::text IS NULL OR a.key = $2) ORDER BY a.ended_at NULLS LAST, a.epoch, a.key
