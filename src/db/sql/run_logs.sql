-- What steps of a run have written, in order: up to $8 rows, each of many lines, after a place: row $3 of epoch $2, and of the epoch $4
-- before it row $5 (its worker may have written it late). Caller: db::logs. Index: logs_pkey.
SELECT l.epoch AS "epoch!", l.n AS "n!", l.first AS "first!", l.at AS "at!", l.attempt AS "attempt!", l.key AS "key!", l.lines AS "lines!"
FROM stepd_engine.logs l
WHERE l.run = $1 AND l.epoch >= $4 AND NOT (l.epoch = $2 AND l.n <= $3) AND NOT (l.epoch = $4 AND l.n <= $5)
    AND ($6::text IS NULL OR l.key = $6) AND ($7::smallint IS NULL OR l.attempt = $7)
ORDER BY l.epoch, l.n LIMIT $8
