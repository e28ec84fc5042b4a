-- A definition by id, or the present one of a workflow. Caller: services::definitions.
SELECT d.id, d.hash, d.workflow, d.body FROM stepd_engine.definitions d
WHERE d.id = coalesce($1, (SELECT w.definition FROM stepd_engine.workflows w WHERE w.name = $2))
