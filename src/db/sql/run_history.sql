-- What happened to a run, but for its steps' starts and ends, which their own rows tell. Caller: the command line's show.
SELECT h.seq AS "seq!", h.at AS "at!", h.event AS "event!", h.key, h.attempt, h.by_whom, h.epoch, h.data::text AS data
FROM stepd.history h WHERE h.run = $1 AND h.event NOT LIKE 'step %' ORDER BY h.seq
