-- Who keeps what from whom, the longest first, of all kinds or of one; and how many there are. Caller: the command line, the HTTP API.
-- The live runs are read once for each kind.
WITH l AS MATERIALIZED (SELECT * FROM stepd.locks k WHERE $1::text IS NULL OR k.kind = $1)
SELECT l.kind AS "kind!", l.name AS "name!", l.run AS "run!", l.workflow AS "workflow!", l.state::text AS "state!", l.worker, l.holder, l.since,
    l.expires_at, l.epoch AS "epoch!", count(*) OVER () AS "total!", clock_timestamp() AS "now!"
FROM l ORDER BY l.since NULLS LAST, l.kind, l.run LIMIT $2
