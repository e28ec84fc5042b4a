-- What happened to a run, but for its steps' starts and ends, which their own rows tell: in order, or with $4 the newest first; after the
-- line $2, at most $3. Caller: the command line's show, the HTTP API.
SELECT h.seq AS "seq!", h.at AS "at!", h.event AS "event!", h.key, h.attempt, h.by_whom, h.epoch, h.data::text AS data
FROM stepd.history h WHERE h.run = $1 AND h.event NOT LIKE 'step %' AND ($2::bigint IS NULL OR CASE WHEN $4 THEN h.seq < $2 ELSE h.seq > $2 END)
ORDER BY CASE WHEN $4 THEN -h.seq ELSE h.seq END LIMIT $3
