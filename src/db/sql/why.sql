-- Where a run stands, in one sentence. Caller: the command line.
SELECT stepd.why($1) AS "why!"
