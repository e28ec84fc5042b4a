-- Does it answer? Caller: /readyz.
SELECT 1 AS "one!"
