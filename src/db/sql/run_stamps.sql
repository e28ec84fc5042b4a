-- A text for each of these runs that is another one when the run, its steps or its events have changed. Caller: the HTTP server, for
-- the runs that somebody watches, again and again. Index: the primary keys.
SELECT w.id AS "id!", concat_ws(' ',
    (SELECT 'live ' || j.xmin::text FROM stepd.jobs j WHERE j.id = w.id),
    (SELECT 'ended ' || e.xmin::text FROM stepd_engine.ended e WHERE e.id = w.id),
    (SELECT count(*) || '/' || coalesce(max(v.id), 0) FROM stepd_engine.events v WHERE v.run = w.id),
    (SELECT count(*) || '/' || coalesce(sum(c.xmin::text::bigint), 0) FROM stepd_engine.checkpoints c WHERE c.run = w.id)) AS "stamp!"
FROM unnest($1::uuid[]) w(id)
