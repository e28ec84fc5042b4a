-- What steps of a run have written, in order: up to $8 lines after a place: row $3 of epoch $2, and of the epoch $4 before it row $5 (its
-- worker may have written it late). From the view, which is open to who may read. Caller: db::logs. Index: logs_pkey, whose order it is: a
-- page reads no more rows than it tells, and its lines are put in order by the caller.
SELECT l.epoch AS "epoch!", l.chunk AS "chunk!", l.line AS "line!", l.at AS "at!", l.attempt AS "attempt!", l.key AS "key!",
    l.stream AS "stream!", l.level AS "level!", l.text AS "text!"
FROM stepd.logs l
WHERE l.run = $1 AND l.epoch >= $4 AND NOT (l.epoch = $2 AND l.chunk <= $3) AND NOT (l.epoch = $4 AND l.chunk <= $5)
    AND ($6::text IS NULL OR l.key = $6) AND ($7::integer IS NULL OR l.attempt = $7)
ORDER BY l.epoch, l.chunk LIMIT $8
