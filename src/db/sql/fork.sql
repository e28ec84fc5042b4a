-- Makes a new run of a run, from a step on. Caller: the command line, the library. Locks: none of the run it is made of.
SELECT stepd.fork($1, $2, $3::text::jsonb, $4, $5) AS "id!"
