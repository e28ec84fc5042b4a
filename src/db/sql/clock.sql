-- The database's time. Caller: the HTTP API, for what it tells of something that it has just done.
SELECT clock_timestamp() AS "now!"
