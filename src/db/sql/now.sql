-- The server's time. Caller: the HTTP API.
SELECT clock_timestamp() AS "now!"
