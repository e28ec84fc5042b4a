-- What ended runs have spent on models, by $1 (day, workflow or key), the dearest $5 of them and all together: from the daily costs, over
-- the days from $2 to $3, of the workflow $4 or all. Caller: the command line's cost, the HTTP API. Index: daily_costs_pkey.
WITH spent AS (
    SELECT CASE $1::text WHEN 'day' THEN to_char(c.day, 'YYYY-MM-DD') WHEN 'workflow' THEN c.workflow ELSE c.concurrency_key END AS name, c.*
    FROM stepd.daily_costs c WHERE c.day BETWEEN $2 AND $3 AND ($4::text IS NULL OR c.workflow = $4)
)
SELECT s.name, grouping(s.name) = 1 AS "all!", sum(s.runs)::bigint AS "runs!", sum(s.calls)::bigint AS "calls!", sum(s.tokens_in)::bigint AS "tokens_in!",
    sum(s.tokens_out)::bigint AS "tokens_out!", sum(s.cost)::float8 AS "cost!"
FROM spent s GROUP BY GROUPING SETS ((s.name), ()) HAVING count(*) > 0
ORDER BY 2 DESC, CASE WHEN $1 = 'day' THEN s.name END DESC, sum(s.cost) DESC, s.name LIMIT $5 + 1
