-- Emits an event; how many runs it has reached. Caller: the command line. Locks: the event's name (shared), the rows of those that wait for it.
SELECT stepd.emit($1, $2::text::jsonb) AS "reached!"
