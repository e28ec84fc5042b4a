-- All workflows, or one by name, with their definitions, for the older system. $2 is the one that stands for documents which a request
-- brought along: it is none of them. Caller: http::older.
SELECT w.name, w.definition, w.retired_at IS NULL AS "enabled!", w.loaded_at, d.body,
    coalesce((SELECT min(x.created_at) FROM stepd_engine.definitions x WHERE x.workflow = w.name), d.created_at) AS "created_at!"
FROM stepd_engine.workflows w JOIN stepd_engine.definitions d ON d.id = w.definition
WHERE w.name <> $2 AND ($1::text IS NULL OR w.name = $1) ORDER BY w.name
