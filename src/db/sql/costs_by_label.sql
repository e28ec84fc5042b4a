-- What the runs that are there have spent on models, by the value of their label $1, the dearest $5 of them and all together: of those that were
-- enqueued from the id $2 to before $3, of the workflow $4 or all; live ones, too. Caller: the command line's cost, the HTTP API.
-- Index: checkpoints_usage, then each run by its key.
SELECT s.name, grouping(s.name) = 1 AS "all!", count(DISTINCT s.run) AS "runs!", sum(s.calls)::bigint AS "calls!", sum(s.tokens_in)::bigint AS "tokens_in!",
    sum(s.tokens_out)::bigint AS "tokens_out!", sum(s.cost)::float8 AS "cost!"
FROM (SELECT c.labels ->> $1::text AS name, c.* FROM stepd.costs c
    WHERE c.run >= $2 AND c.run < $3 AND ($4::text IS NULL OR c.workflow = $4)) s
GROUP BY GROUPING SETS ((s.name), ()) HAVING count(*) > 0
ORDER BY 2 DESC, sum(s.cost) DESC, s.name LIMIT $5 + 1
