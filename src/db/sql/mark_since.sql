-- How long ago a mark was made, and whether this database has come so far: one that was brought back from a backup may not. Caller: the HTTP
-- server's stream of all runs, when a reader comes back.
SELECT age(($1::text)::xid) >= 0 AND $2::timestamptz <= statement_timestamp() AS "known!",
    extract(epoch FROM statement_timestamp() - $2::timestamptz)::float8 AS "seconds!"
