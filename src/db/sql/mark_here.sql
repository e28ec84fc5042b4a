-- Where changes are looked for from the next time on: what a transaction writes that is not seen now has this number, or a later one.
-- Caller: the HTTP server's stream of all runs, before each look.
SELECT (pg_snapshot_xmin(pg_current_snapshot())::xid)::text AS "floor!", statement_timestamp() AS "at!"
