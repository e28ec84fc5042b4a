-- Everything that happened to a run, in order. Caller: the command line's logs and watch.
SELECT h.at AS "at!", h.event AS "event!", h.key, h.attempt, h.by_whom, h.epoch, h.data::text AS data
FROM stepd.history h WHERE h.run = $1 ORDER BY h.seq
