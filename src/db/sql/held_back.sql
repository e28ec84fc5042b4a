-- Who, besides transactions of this database, keeps dead rows from being removed: a standby that tells what it still looks at
-- (hot_standby_feedback), or a replication slot, be it read or not. The one that goes back furthest.
-- Caller: the command line's doctor.
SELECT h.slot, h.standby, h.active AS "active!", age(h.xmin)::bigint AS "transactions!"
FROM (
    SELECT s.slot_name::text AS slot, NULL AS standby, s.active, s.xmin FROM pg_replication_slots s
    UNION ALL
    SELECT NULL, coalesce(nullif(r.application_name, ''), 'process ' || r.pid), true, r.backend_xmin FROM pg_stat_replication r
) h WHERE h.xmin IS NOT NULL ORDER BY 4 DESC LIMIT 1
