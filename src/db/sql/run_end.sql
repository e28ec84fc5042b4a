-- How a run ended, if it has; small enough to be asked again and again. Caller: the library's wait for a result.
SELECT CASE WHEN r.ended_at IS NOT NULL THEN r.state::text END AS state, r.output::text AS output, r.error::text AS error, (r.id IS NOT NULL) AS "known!"
FROM (SELECT $1::uuid AS id) w LEFT JOIN stepd.runs r ON r.id = w.id
