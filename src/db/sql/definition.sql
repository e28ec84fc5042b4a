-- A definition by id, or the present one of a workflow. Caller: services::definitions.
SELECT d.id AS "id!", d.hash AS "hash!", d.workflow AS "workflow!", d.body FROM stepd.definitions d
WHERE d.id = coalesce($1, (SELECT w.definition FROM stepd.workflows w WHERE w.name = $2))
